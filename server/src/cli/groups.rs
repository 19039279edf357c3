//! `thalweg groups`: where groups stand, and moving them.
//!
//! Always true here: a position is moved only while the group has no member (the log refuses it
//! otherwise), and all positions of a command are stored at once.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use thalweg_core::client::log::{Isolation, Membership, OffsetCommit};
use thalweg_core::{Error, Log};

use super::args::Groups;
use super::consume::partitions_of;
use super::failure::{Failure, Outcome};
use super::from::Place;
use super::output::{List, Out};
use super::session::{self, Missing};

/// Runs the command.
pub(crate) fn run(data: &Path, command: Groups) -> Outcome {
    match command {
        Groups::List { json } => session::ask(data, async |log| list(&log, json).await),
        Groups::Describe { group, json } => {
            session::ask(data, async |log| describe(&log, &group, json).await)
        }
        Groups::Reset { group, topic, to, partition, dry_run, json } => {
            if to == Place::Stored {
                let what = "--to stored: that is where the group stands already; use beginning, \
                            end, an offset, -N or @TIME";
                return Err(Failure::Usage(what.to_owned()));
            }
            let commit = !dry_run;
            session::short(data, Missing::Refuse, async |log| {
                reset(&log, &group, &topic, to, &partition, commit, json).await
            })
        }
    }
}

async fn list(log: &Arc<dyn Log>, json: bool) -> Outcome {
    let mut out = Out::new();
    let mut list = List::new(&["group", "generation", "members", "positions"], json);
    for one in log.groups().await? {
        let values = [
            (&*one.group).into(),
            one.generation.into(),
            one.members.len().into(),
            one.positions.len().into(),
        ];
        list.row(&mut out, values);
    }
    list.finish(&mut out);
    out.flush()
}

async fn describe(log: &Arc<dyn Log>, group: &str, json: bool) -> Outcome {
    let groups = log.groups().await?;
    let Some(info) = groups.into_iter().find(|info| &*info.group == group) else {
        return Err(Error::Unknown { what: format!("group {group:?}") }.into());
    };
    let names =
        &["group", "topic", "partition", "position", "end", "lag", "leader_epoch", "metadata"];
    let mut out = Out::new();
    let mut list = List::new(names, json);
    for commit in info.positions {
        let at = &commit.at;
        let end = log.offsets(at).await?.last_stable;
        list.row(
            &mut out,
            [
                group.into(),
                (&*at.topic).into(),
                at.partition.into(),
                commit.offset.into(),
                end.into(),
                end.saturating_sub(commit.offset).max(0).into(),
                commit.leader_epoch.into(),
                commit.metadata.into(),
            ],
        );
    }
    list.finish(&mut out);
    out.flush()
}

async fn reset(
    log: &Arc<dyn Log>,
    group: &str,
    topic: &str,
    to: Place,
    partitions: &[u32],
    commit: bool,
    json: bool,
) -> Outcome {
    let info = log.topic(topic).await?;
    let partitions = partitions_of(&info, partitions)?;
    let before = log.committed_offsets(group, &partitions).await?;
    let mut out = Out::new();
    let mut list = List::new(&["group", "topic", "partition", "before", "position"], json);
    let mut commits = Vec::with_capacity(partitions.len());
    for (at, before) in partitions.iter().zip(before) {
        let offsets = log.offsets(at).await?;
        let place = to.offset(log, at, &offsets, Isolation::ReadCommitted).await?;
        let Some(offset) = place else { continue };
        let before: Value = before.map(|commit| commit.offset).into();
        list.row(
            &mut out,
            [group.into(), topic.into(), at.partition.into(), before, offset.into()],
        );
        let (at, metadata) = (at.clone(), String::new());
        commits.push(OffsetCommit { at, offset, leader_epoch: -1, metadata });
    }
    if commit {
        log.commit_offsets(&Membership::simple(group), &commits).await?;
    }
    list.finish(&mut out);
    out.flush()
}
