//! A pipeline while it is written down: its parts, what they write and keep.
//!
//! Always true here: nothing is refused yet; [`Topology`](crate::Topology) looks at the whole.

use std::sync::Arc;

use crate::chain::Encoded;
use crate::codec::CodecId;
use crate::cx::OutputId;
use crate::stage::Slot;
use crate::state::backend::StoreId;
use crate::time::{TimeSettings, WhenIdle};
use crate::topic::TopicKind;

/// A pipeline while it is written down.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) parts: Vec<Part>,
    pub(crate) when_idle: WhenIdle,
}

/// Where a subtopology begins.
#[derive(Clone, Debug)]
pub(crate) struct SourceInfo {
    pub(crate) topic: &'static str,
    pub(crate) kind: TopicKind,
    pub(crate) codecs: Option<(CodecId, CodecId)>,
    pub(crate) time: TimeSettings,
}

/// A store of a subtopology: each task has its own rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreInfo {
    /// Its id: the first two bytes of its keys in the changelog and in the backend.
    pub id: StoreId,
    /// Its name.
    pub name: &'static str,
    /// Its changelog among the outputs.
    pub changelog: OutputId,
    /// What decides how its rows are read: operator and codecs.
    pub(crate) shape: String,
}

/// A subtopology while it is written down. Changelogs get their names when the application is known.
pub(crate) struct Part {
    pub(crate) source: SourceInfo,
    pub(crate) root: Arc<Slot<Encoded>>,
    pub(crate) outputs: Vec<(&'static str, PartOutput)>,
    pub(crate) stores: Vec<StoreInfo>,
    pub(crate) stages: Vec<String>,
}

/// What a part writes.

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartOutput {
    /// `.to(..)`, and what its constant says the topic is.
    Topic(TopicKind),
    Repartition(TopicKind),
    Changelog(StoreId),
}

impl Graph {
    pub(crate) fn source(&mut self, source: SourceInfo) -> (usize, Arc<Slot<Encoded>>) {
        let root = Slot::new();
        self.parts.push(Part {
            source,
            root: Arc::clone(&root),
            outputs: Vec::new(),
            stores: Vec::new(),
            stages: Vec::new(),
        });
        (self.parts.len() - 1, root)
    }

    pub(crate) fn time(&mut self, part: usize) -> &mut TimeSettings {
        &mut self.parts[part].source.time
    }

    /// Notes a stage for `describe` and gives its number.
    pub(crate) fn stage(&mut self, part: usize, from: usize, operators: &str, what: &str) -> usize {
        let stages = &mut self.parts[part].stages;
        let via = if operators.is_empty() { String::new() } else { format!("{operators} > ") };
        stages.push(format!("from [{from}]: {via}{what}"));
        stages.len()
    }

    pub(crate) fn topic(&mut self, part: usize, topic: &'static str, kind: TopicKind) -> OutputId {
        self.output(part, topic, PartOutput::Topic(kind))
    }

    pub(crate) fn repartition(
        &mut self,
        part: usize,
        topic: &'static str,
        kind: TopicKind,
    ) -> OutputId {
        self.output(part, topic, PartOutput::Repartition(kind))
    }

    /// Adds a store with its changelog.
    pub(crate) fn store(&mut self, part: usize, name: &'static str, shape: String) -> StoreInfo {
        // Store ids count from 1 within a subtopology: 0 is the meta record's. More than 65535 stores
        // in one part are refused by `check`, through their number.
        let id = StoreId::try_from(self.parts[part].stores.len() + 1).unwrap_or(StoreId::MAX);
        let changelog = self.output(part, name, PartOutput::Changelog(id));
        let info = StoreInfo { id, name, changelog, shape };
        self.parts[part].stores.push(info.clone());
        info
    }

    fn output(&mut self, part: usize, name: &'static str, kind: PartOutput) -> OutputId {
        let outputs = &mut self.parts[part].outputs;
        let known = outputs.iter().position(|&(n, k)| n == name && k == kind);
        let at = known.unwrap_or_else(|| {
            outputs.push((name, kind));
            outputs.len() - 1
        });
        OutputId(u16::try_from(at).unwrap_or(u16::MAX))
    }
}
