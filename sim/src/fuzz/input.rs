//! Several byte strings in one input: the files of a folder, or the records of a log.
//!
//! ```text
//!   u8 length, name   u32 length, bytes      again and again; the last one may be cut
//! ```
//!
//! Always true here: any bytes are some parts; what was packed is unpacked as it was.

use thalweg_core::disk::sim::Rng;

use super::mutate::Mutator;
use super::repair::{Sums, repair};

/// A named byte string.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl Part {
    pub(super) fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

/// More parts than these are not looked at.
const PARTS_MAX: usize = 64;

pub(super) fn pack(parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let name = &part.name.as_bytes()[..part.name.len().min(255)];
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.extend_from_slice(&(part.bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(&part.bytes);
    }
    out
}

pub(super) fn unpack(mut bytes: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    while let [len, rest @ ..] = bytes
        && parts.len() < PARTS_MAX
    {
        let Some((name, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
        let Some((len, rest)) = rest.split_first_chunk() else { break };
        let len = (u32::from_be_bytes(*len) as usize).min(rest.len());
        let (body, rest) = rest.split_at(len);
        parts.push(Part::new(String::from_utf8_lossy(name), body));
        bytes = rest;
    }
    parts
}

/// Makes the sums of every part right, as its name says.
pub(super) fn repair_all(parts: &mut [Part]) {
    for part in parts {
        repair(Sums::of_file(&part.name), &mut part.bytes);
    }
}

/// Changes the parts themselves, or the bytes of one of them.
pub(super) fn change(parts: &mut Vec<Part>, donor: &[Part], rng: &mut Rng, repaired: bool) {
    loop {
        once(parts, donor, rng, repaired);
        if !rng.one_in(3) {
            return;
        }
    }
}

fn once(parts: &mut Vec<Part>, donor: &[Part], rng: &mut Rng, repaired: bool) {
    let place = |rng: &mut Rng, parts: &[Part]| rng.below(parts.len() as u64) as usize;
    if parts.is_empty() {
        parts.extend_from_slice(donor);
        return;
    }
    let at = place(rng, parts);
    match rng.below(16) {
        0 => _ = parts.remove(at),
        // Content where other content belongs.
        1 => {
            let other = place(rng, parts);
            let bytes = parts[other].bytes.clone();
            parts[at].bytes = bytes;
        }
        2 if !donor.is_empty() => {
            let part = donor[place(rng, donor)].clone();
            parts.insert(at, part);
        }
        3 if !donor.is_empty() => {
            let other = place(rng, donor);
            parts[at].bytes.clone_from(&donor[other].bytes);
        }
        4 => {
            let other = place(rng, parts);
            parts.swap(at, other);
        }
        5 => {
            let mut name = std::mem::take(&mut parts[at].name).into_bytes();
            let donor = donor.first().map_or(&[][..], |part| part.name.as_bytes());
            Mutator { rng, donor }.change(&mut name);
            parts[at].name = String::from_utf8_lossy(&name).into_owned();
        }
        _ => {
            let donor = match donor.iter().find(|part| part.name == parts[at].name) {
                Some(part) if rng.coin() => &part.bytes,
                _ => donor.first().map_or(&parts[0].bytes, |part| &part.bytes),
            };
            let donor = donor.clone();
            let part = &mut parts[at];
            Mutator { rng, donor: &donor }.change(&mut part.bytes);
            if repaired {
                repair(Sums::of_file(&part.name), &mut part.bytes);
            }
        }
    }
}
