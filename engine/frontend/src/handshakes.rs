//! Connections that have yet to begin to speak: how many there may be of one address, and which of them goes when places run short.
//!
//! A connection costs its client nothing, and takes a place until it speaks or [its time](super::connections) is over. A client of
//! good faith speaks at once. So nobody else's place is taken for one that says nothing: the oldest of those goes first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The connections of a listener that have yet to begin to speak. Cheap to clone.
#[derive(Clone)]
pub(super) struct Handshakes {
    per_address_max: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    number: u64,
    /// By number: the oldest first.
    handshakes: BTreeMap<u64, Handshake>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
}

struct Handshake {
    address: IpAddr,
    is_silent: bool,
    end: oneshot::Sender<()>,
}

/// The place of a connection among them, until it is dropped.
pub(super) struct Unfinished {
    number: u64,
    handshakes: Handshakes,
    /// Resolves when the connection has to go.
    pub(super) end: oneshot::Receiver<()>,
}

impl Handshakes {
    /// At most `per_address_max` of one address.
    pub(super) fn new(per_address_max: usize) -> Handshakes {
        Handshakes { per_address_max: per_address_max.max(1), table: Arc::default() }
    }

    /// Takes in a connection from `address`. If that has too many, its oldest one goes. Returns also whether it has.
    pub(super) fn begin(&self, address: IpAddr) -> (Unfinished, bool) {
        let address = network_of(address);
        let mut table = self.table.lock();
        let numbers = table.by_address.get(&address).filter(|numbers| numbers.len() >= self.per_address_max);
        let oldest = numbers.and_then(|numbers| first_to_go(numbers.iter().copied(), &table.handshakes));
        let makes_place = oldest.is_some_and(|number| table.end(number));
        let (end, ended) = oneshot::channel();
        let number = table.number;
        table.number += 1;
        table.handshakes.insert(number, Handshake { address, is_silent: true, end });
        table.by_address.entry(address).or_default().insert(number);
        (Unfinished { number, handshakes: self.clone(), end: ended }, makes_place)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.lock().handshakes.is_empty()
    }
}

impl Table {
    /// Makes a connection go, if it is there.
    fn end(&mut self, number: u64) -> bool {
        self.remove(number).is_some_and(|handshake| handshake.end.send(()).is_ok())
    }

    fn remove(&mut self, number: u64) -> Option<Handshake> {
        let handshake = self.handshakes.remove(&number)?;
        if let Some(numbers) = self.by_address.get_mut(&handshake.address) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_address.remove(&handshake.address);
            }
        }
        Some(handshake)
    }
}

impl Unfinished {
    /// Makes the oldest of the other connections go, of whichever address. Returns whether there was one.
    pub(super) fn end_another(&self) -> bool {
        let mut table = self.handshakes.table.lock();
        let others = table.handshakes.keys().copied().filter(|number| *number != self.number);
        let oldest = first_to_go(others, &table.handshakes);
        oldest.is_some_and(|number| table.end(number))
    }

    /// The connection has said something, though not enough.
    pub(super) fn has_spoken(&self) {
        if let Some(handshake) = self.handshakes.table.lock().handshakes.get_mut(&self.number) {
            handshake.is_silent = false;
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.handshakes.table.lock().remove(self.number);
    }
}

/// Of `numbers`, in their order: the oldest that has said nothing, or else the oldest.
fn first_to_go(mut numbers: impl Iterator<Item = u64> + Clone, handshakes: &BTreeMap<u64, Handshake>) -> Option<u64> {
    let is_silent = |number: &u64| handshakes.get(number).is_some_and(|handshake| handshake.is_silent);
    numbers.clone().find(is_silent).or_else(|| numbers.next())
}

/// What counts as one address: of IPv6 the network of 64 bits that a single machine may have for itself.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(unfinished: &mut Unfinished) -> bool {
        unfinished.end.try_recv().is_ok()
    }

    #[test]
    fn the_oldest_that_has_said_nothing_goes_first() {
        let handshakes = Handshakes::new(3);
        let (one, another) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let (mut foreign, _) = handshakes.begin(another);
        let mut own: Vec<_> = (0..3).map(|_| handshakes.begin(one).0).collect();
        own[0].has_spoken();
        let (newest, makes_place) = handshakes.begin(one);
        assert!(makes_place);
        own.push(newest);
        assert!(!ended(&mut foreign), "an address takes no other one's places");
        assert_eq!(own.iter_mut().map(ended).collect::<Vec<_>>(), [false, true, false, false]);
        assert!(own[3].end_another() && ended(&mut foreign));
        own[2].has_spoken();
        assert!(own[3].end_another() && ended(&mut own[0]), "all others have spoken");
        assert!(own[3].end_another() && ended(&mut own[2]));
        assert!(!own[3].end_another(), "nobody is left but itself");
        drop(own);
        assert!(handshakes.is_empty() && handshakes.table.lock().by_address.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
    }
}
