//! Identifiers: namespaces, runs, and the seeded source that new ones come from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Time;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ok(Self(uuid::Uuid::try_parse(text)?.into_bytes()))
            }
        }

        impl From<u128> for $name {
            fn from(number: u128) -> Self {
                Self(number.to_be_bytes())
            }
        }

        impl From<$name> for u128 {
            fn from(id: $name) -> u128 {
                u128::from_be_bytes(id.0)
            }
        }
    };
}

uuid_id!(
    /// A namespace; its text form is a UUID.
    NamespaceId
);
uuid_id!(
    /// One run of a workflow; its text form is a UUID.
    RunId
);

/// What kind of state machine has an id: workflows are one of them. Each lives in the partition that its id hashes to, with rows, wakes
/// and tasks of its own. The numbers are for ever: they are in keys and rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum EntityKind {
    /// A workflow.
    #[default]
    Workflow = 0,
    /// A schedule.
    Schedule = 1,
    /// A batch job.
    BatchJob = 2,
    /// An activity that is no workflow's.
    Activity = 3,
}

impl EntityKind {
    /// All kinds.
    pub const ALL: [EntityKind; 4] =
        [EntityKind::Workflow, EntityKind::Schedule, EntityKind::BatchJob, EntityKind::Activity];

    /// The kind with this number.
    pub fn from_byte(byte: u8) -> Option<EntityKind> {
        EntityKind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// New identifiers from a seed: the same seed gives the same sequence.
#[derive(Clone, Debug)]
pub struct Ids {
    high: u64,
    low: u64,
}

impl Ids {
    /// A source that starts at `seed`.
    pub fn new(seed: u128) -> Ids {
        Ids { high: (seed >> 64) as u64, low: seed as u64 }
    }

    fn uuid(&mut self) -> uuid::Uuid {
        let (high, low) = (next(&mut self.high), next(&mut self.low));
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).into_uuid()
    }

    /// A new run that begins at `now`: a UUID of version 7, as Temporal's are, so that runs stand in the order of their times.
    pub fn run_id(&mut self, now: Time) -> RunId {
        let ms = u64::try_from(now.0 / 1_000_000).unwrap_or(0);
        self.run_id_of_ms(ms)
    }

    /// A new run that follows from another one, and has its time.
    pub(crate) fn run_id_after(&mut self, run_id: RunId) -> RunId {
        self.run_id_of_ms((u128::from(run_id) >> 80) as u64)
    }

    fn run_id_of_ms(&mut self, ms: u64) -> RunId {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&next(&mut self.high).to_be_bytes());
        random[8..].copy_from_slice(&next(&mut self.low).to_be_bytes()[..2]);
        RunId(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid().into_bytes())
    }

    /// A new request id, where a caller gave none.
    pub fn request_id(&mut self) -> String {
        self.uuid().to_string()
    }

    /// A seed for another source.
    pub fn seed(&mut self) -> u128 {
        (u128::from(next(&mut self.high)) << 64) | u128::from(next(&mut self.low))
    }
}

/// The next 64 bits of a sequence (SplitMix64, Steele, Lea and Flood, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_are_in_the_order_of_their_times() {
        let mut ids = Ids::new(7);
        let (first, second) =
            (ids.run_id(Time(1_795_000_000_123_456_789)), ids.run_id(Time(1_795_000_000_124_000_000)));
        assert!(first < second);
        assert_eq!(first.0[..6], 1_795_000_000_123_u64.to_be_bytes()[2..]);
        for id in [first, second, ids.run_id_after(first), ids.run_id(Time(-1))] {
            assert_eq!(uuid::Uuid::from_bytes(id.0).get_version_num(), 7, "{id}");
        }
        assert_eq!(ids.run_id_after(first).0[..6], first.0[..6]);
    }
}
