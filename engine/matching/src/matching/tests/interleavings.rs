//! Random orders of events, and threads.

use super::*;

/// A partition's view of one queue: what is to be done, and who has it in hand.
struct Interleaving {
    random: Random,
    matching: Arc<Matching>,
    rows: Arc<Rows>,
    next_event: i64,
    lead: u128,
    /// The lead of each partition.
    leads: [u128; 3],
    polls: Vec<PendingPoll>,
    leases: Vec<TaskLease>,
    in_hand: HashSet<(GroupId, i64)>,
}

impl Interleaving {
    fn new(seed: u64) -> Interleaving {
        let (matching, rows) = matching_with_memory(4);
        Interleaving {
            random: Random::new(seed),
            matching,
            rows,
            next_event: 0,
            lead: 1,
            leads: [1; 3],
            polls: Vec::new(),
            leases: Vec::new(),
            in_hand: HashSet::new(),
        }
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..=6 => {
                let partition = GroupId(self.random.below(3) as u32);
                let mut task = task(1 + self.random.below(5) as u8, self.random.below(50) as i64, self.next_event);
                self.next_event += 1;
                // More keys than there is room for.
                task.key.position.lane = Lane(self.random.below(5) as u64);
                task.weight = Weight(self.random.below(3_000) as u32);
                task.sticky = (self.random.below(3) == 0).then(|| "sticky".to_owned());
                self.rows.put(partition, &task);
                let source = lead(partition, self.leads[partition.0 as usize]);
                self.matching.receive(Message::Task { source, workflow: address(), task });
            }
            7..=11 => {
                let poll = if self.random.below(3) == 0 { sticky_poll() } else { normal_poll() };
                self.polls.push(start_poll(&self.matching, poll));
            }
            12 | 13 if !self.polls.is_empty() => {
                let index = self.random.below(self.polls.len());
                drop(self.polls.swap_remove(index));
            }
            14 | 15 if !self.leases.is_empty() => {
                let index = self.random.below(self.leases.len());
                let lease = self.leases.swap_remove(index);
                self.in_hand.remove(&(lease.partition, lease.task.key.position.scheduled_event_id));
                drop(lease);
            }
            16 | 17 if !self.leases.is_empty() => {
                let index = self.random.below(self.leases.len());
                let lease = self.leases.swap_remove(index);
                self.in_hand.remove(&(lease.partition, lease.task.key.position.scheduled_event_id));
                self.rows.remove(lease.partition, &lease.task);
                lease.done();
            }
            18 => advance(Duration::from_millis(self.random.below(4000) as u64)).await,
            19 if self.random.below(5) == 0 => {
                let partition = GroupId(self.random.below(3) as u32);
                // What the old leader gave out is void, and the new one says nothing of what is ready.
                self.lead += 1;
                self.leads[partition.0 as usize] = self.lead;
                self.in_hand.retain(|(of, _)| *of != partition);
                self.matching.receive(Message::Opened(lead(partition, self.lead)));
            }
            _ => tokio::task::yield_now().await,
        }
        for index in (0..self.polls.len()).rev() {
            if let Some(matched) = got(&mut self.polls[index]) {
                drop(self.polls.swap_remove(index));
                self.take(matched);
            }
        }
    }

    fn take(&mut self, matched: Matched) {
        let Matched::Task(lease) = matched else { return };
        let position = lease.task.key.position;
        if !self.rows.rows.lock().contains_key(&(lease.partition, position)) {
            // A page that was read before the task was done: the partition refuses to start it.
            lease.done();
            return;
        }
        let is_first = self.in_hand.insert((lease.partition, lease.task.key.position.scheduled_event_id));
        assert!(is_first, "{:?} was handed out twice", lease.task);
        self.leases.push(lease);
    }

    async fn finish(mut self) {
        self.polls.clear();
        self.in_hand.clear();
        self.leases.clear();
        while let Matched::Task(lease) = self.matching.poll(normal_poll(), in_seconds(60)).await {
            self.rows.remove(lease.partition, &lease.task);
            lease.done();
        }
        let left = self.rows.rows.lock().keys().copied().collect::<Vec<_>>();
        assert!(left.is_empty(), "lost: {left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_interleaving_loses_a_task_or_hands_it_out_twice() {
    for seed in 0..10_000 {
        let run = async {
            let mut interleaving = Interleaving::new(seed);
            for _ in 0..40 {
                interleaving.step().await;
            }
            interleaving.finish().await;
        };
        let result = std::panic::AssertUnwindSafe(run).catch_unwind().await;
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_share_a_queue_without_losing_a_task() {
    let (matching, _) = matching();
    const TASKS: i64 = 4000;
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let workers: Vec<_> = (0..8_u64)
        .map(|worker| {
            let (matching, seen) = (matching.clone(), seen.clone());
            tokio::spawn(async move {
                let mut random = Random::new(worker);
                while seen.lock().len() < TASKS as usize {
                    let mut poll = Box::pin(matching.poll(normal_poll(), Instant::now() + Duration::from_millis(20)));
                    if random.below(4) == 0 {
                        // Gives up on the way.
                        let _ = (&mut poll).now_or_never();
                        continue;
                    }
                    if let Matched::Task(lease) = poll.await
                        && random.below(4) > 0
                    {
                        assert!(seen.lock().insert(lease.task.key.position.scheduled_event_id));
                        lease.done();
                    }
                }
            })
        })
        .collect();
    for partition in 0..4 {
        let matching = matching.clone();
        tokio::spawn(async move {
            for event in (partition..TASKS).step_by(4) {
                offer(&matching, GroupId(partition as u32), task(3, event, event));
                if event % 64 == partition {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(matching.describe(&queue_id("queue")).await.stats.backlog, 0);
}
