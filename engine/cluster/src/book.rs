//! Who leads which partition since when, by what the leads say themselves; and which of their messages got lost.

use std::collections::HashMap;

use everlog_matching::{Message, Source};
use everlog_model::NodeId;
use everlog_storage::GroupId;
use parking_lot::Mutex;

/// Who sent something, and how many batches of offers it has sent so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) node: NodeId,
    /// Another number at each start of the node.
    pub(crate) incarnation: u64,
    pub(crate) batches: u64,
}

/// The leads of all partitions, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct LeadBook(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    own: HashMap<GroupId, u128>,
    others: HashMap<GroupId, (NodeId, u128)>,
    /// What was heard last of each node.
    heard: HashMap<NodeId, Sender>,
}

impl LeadBook {
    /// This node leads. Returns what the queues are to be told besides that.
    ///
    /// It may be the home of other queues than before, whose tasks were offered elsewhere: all rows are to be read.
    pub(crate) fn open(&self, source: Source) -> Vec<Message> {
        let mut book = self.0.lock();
        book.own.insert(source.partition, source.lead);
        if book.others.get(&source.partition).is_some_and(|(_, lead)| *lead < source.lead) {
            book.others.remove(&source.partition);
        }
        let own = book.own.iter().map(|(partition, lead)| (*partition, *lead));
        let others = book.others.iter().map(|(partition, (_, lead))| (*partition, *lead));
        let all = own.chain(others).filter(|(partition, _)| *partition != source.partition);
        all.map(|(partition, lead)| Message::Missed(Source { partition, lead })).collect()
    }

    /// This node leads no more.
    pub(crate) fn close(&self, source: Source) {
        let mut book = self.0.lock();
        if book.own.get(&source.partition) == Some(&source.lead) {
            book.own.remove(&source.partition);
        }
    }

    /// The leads of this node.
    pub(crate) fn own(&self) -> Vec<Source> {
        self.0.lock().own.iter().map(|(partition, lead)| Source { partition: *partition, lead: *lead }).collect()
    }

    /// Whether this node leads a partition.
    pub(crate) fn leads(&self, partition: GroupId) -> bool {
        self.0.lock().own.contains_key(&partition)
    }

    /// Whether that is a lead of this node.
    pub(crate) fn is_own(&self, source: Source) -> bool {
        self.0.lock().own.get(&source.partition) == Some(&source.lead)
    }

    /// The lead of a partition that another node has, as far as is known.
    pub(crate) fn elsewhere(&self, partition: GroupId) -> Option<(NodeId, Source)> {
        let (node, lead) = *self.0.lock().others.get(&partition)?;
        Some((node, Source { partition, lead }))
    }

    /// A node says that these are all of its leads. Returns what the queues are to be told.
    pub(crate) fn announced(&self, sender: Sender, leads: &[Source]) -> Vec<Message> {
        let mut book = self.0.lock();
        let has_missed = book.hear(sender, sender.batches);
        let mut messages = Vec::new();
        for source in leads {
            let newest = book.newest(source.partition);
            if newest.is_none_or(|newest| newest < source.lead) {
                book.others.insert(source.partition, (sender.node, source.lead));
                messages.push(Message::Opened(*source));
            } else if newest == Some(source.lead) && has_missed {
                messages.push(Message::Missed(*source));
            }
        }
        let is_over = |partition: &GroupId, (node, lead): &(NodeId, u128)| {
            *node == sender.node && !leads.contains(&Source { partition: *partition, lead: *lead })
        };
        for (partition, (_, lead)) in book.others.extract_if(|partition, lead| is_over(partition, lead)) {
            messages.push(Message::Closed(Source { partition, lead }));
        }
        messages
    }

    /// A node has sent a batch of offers. Returns what the queues are to be told before they get it.
    pub(crate) fn offered(&self, sender: Sender) -> Vec<Message> {
        let mut book = self.0.lock();
        if !book.hear(sender, sender.batches.saturating_sub(1)) {
            return Vec::new();
        }
        let theirs = book.others.iter().filter(|(_, (node, _))| *node == sender.node);
        theirs.map(|(partition, (_, lead))| Message::Missed(Source { partition: *partition, lead: *lead })).collect()
    }
}

impl Book {
    /// Notes what was heard of a node. True if batches got lost: it has sent `before` others, and not all of them were heard of.
    fn hear(&mut self, sender: Sender, before: u64) -> bool {
        let Some(heard) = self.heard.get_mut(&sender.node) else {
            self.heard.insert(sender.node, sender);
            return false;
        };
        let is_again = heard.incarnation == sender.incarnation;
        let has_missed = !is_again || heard.batches < before;
        heard.batches = if is_again { heard.batches.max(sender.batches) } else { sender.batches };
        heard.incarnation = sender.incarnation;
        has_missed
    }

    fn newest(&self, partition: GroupId) -> Option<u128> {
        let others = self.others.get(&partition).map(|(_, lead)| *lead);
        self.own.get(&partition).copied().max(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    fn lead(partition: u32, lead: u128) -> Source {
        Source { partition: GroupId(partition), lead }
    }

    fn sender(batches: u64) -> Sender {
        Sender { node: NODE, incarnation: 1, batches }
    }

    /// Messages as text, in any order.
    fn told(messages: Vec<Message>) -> Vec<String> {
        let mut told: Vec<String> = messages
            .into_iter()
            .map(|message| match message {
                Message::Opened(source) => format!("opened {}.{}", source.partition, source.lead),
                Message::Closed(source) => format!("closed {}.{}", source.partition, source.lead),
                Message::Missed(source) => format!("missed {}.{}", source.partition, source.lead),
                other => panic!("{other:?}"),
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn leads_open_and_close_as_they_are_announced() {
        let book = LeadBook::default();
        assert_eq!(told(book.announced(sender(0), &[lead(1, 5), lead(2, 5)])), ["opened 1.5", "opened 2.5"]);
        assert_eq!(book.elsewhere(GroupId(1)), Some((NODE, lead(1, 5))));
        assert!(book.announced(sender(0), &[lead(1, 5), lead(2, 5)]).is_empty(), "said again");
        assert_eq!(told(book.announced(sender(0), &[lead(1, 6)])), ["closed 2.5", "opened 1.6"]);
        assert!(book.announced(sender(0), &[lead(1, 6), lead(3, 1)]).len() == 1);
        // A node that does not know that its lead is over says so on.
        let other = Sender { node: NodeId(3), ..sender(0) };
        assert_eq!(told(book.announced(other, &[lead(1, 5)])), [""; 0]);
        assert_eq!(told(book.announced(other, &[lead(1, 7)])), ["opened 1.7"]);
        assert!(book.announced(sender(0), &[lead(1, 6), lead(3, 1)]).is_empty());
        assert_eq!(book.elsewhere(GroupId(1)), Some((NodeId(3), lead(1, 7))));
    }

    #[test]
    fn a_gap_in_the_offers_is_found_by_the_next_message() {
        let book = LeadBook::default();
        let leads = [lead(1, 5)];
        book.announced(sender(0), &leads);
        for batches in 1..4 {
            assert!(book.offered(sender(batches)).is_empty());
        }
        assert!(book.announced(sender(3), &leads).is_empty());
        assert_eq!(told(book.offered(sender(5))), ["missed 1.5"], "the fourth is lost");
        assert!(book.offered(sender(4)).is_empty(), "it comes late");
        assert_eq!(told(book.announced(sender(6), &leads)), ["missed 1.5"]);
        assert!(book.announced(sender(6), &leads).is_empty());
        let restarted = Sender { incarnation: 2, batches: 0, ..sender(0) };
        assert_eq!(told(book.announced(restarted, &[lead(1, 6)])), ["opened 1.6"]);
        assert!(book.offered(Sender { batches: 1, ..restarted }).is_empty());
    }

    #[test]
    fn a_node_that_becomes_the_home_of_queues_reads_all_rows() {
        let book = LeadBook::default();
        book.announced(sender(0), &[lead(1, 5), lead(2, 5)]);
        assert_eq!(told(book.open(lead(3, 1))), ["missed 1.5", "missed 2.5"]);
        assert_eq!(told(book.open(lead(1, 6))), ["missed 2.5", "missed 3.1"]);
        assert_eq!((book.elsewhere(GroupId(1)), book.is_own(lead(1, 6)), book.own().len()), (None, true, 2));
        book.close(lead(1, 5));
        assert!(book.is_own(lead(1, 6)), "an earlier one");
        book.close(lead(1, 6));
        assert!(!book.is_own(lead(1, 6)));
    }
}
