//! The bytes of every message, which other versions read.

use super::*;

fn id(byte: u8) -> Bytes {
    Bytes::from(vec![byte; 2])
}

fn workflow() -> Option<Workflow> {
    Some(Workflow { namespace_id: id(7), workflow_id: "w".to_owned() })
}

fn lead() -> Option<Lead> {
    Some(Lead { partition: 3, lead: id(1) })
}

fn sender() -> Option<Sender> {
    Some(Sender { node: 2, incarnation: 0x0102, batches: 9 })
}

fn version() -> Option<WorkerDeploymentVersion> {
    Some(WorkerDeploymentVersion { build_id: "b".to_owned(), deployment_name: "d".to_owned() })
}

fn task() -> Task {
    Task {
        workflow: workflow(),
        kind: 1,
        task_queue: "q".to_owned(),
        position: id(5),
        attempt: 4,
        sticky: Some("s".to_owned()),
        version: version(),
        entity_kind: 0,
        weight: 0,
    }
}

/// The encoding of a message, which reads as it was, also with a field that a later version has added.
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, golden: &str) {
    let bytes = message.encode_to_vec();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden.replace(' ', ""), "{message:?}");
    let extended = [&bytes[..], b"\xf8\x07\x01"].concat();
    assert_eq!(&M::decode(&extended[..]).unwrap(), message);
}

#[test]
fn what_queues_are_told_is_what_it_always_was() {
    check(&Empty {}, "");
    let announced = AnnounceRequest { sender: sender(), leads: lead().into_iter().collect(), is_draining: false };
    check(&announced, "0a0d 0802 110201000000000000 1809  1206 0803 12020101");
    check(&AnnounceRequest { is_draining: true, ..AnnounceRequest::default() }, "1801");
    check(&AnnounceResponse { led: vec![LedGroup { group: 3, applied_index: 300 }] }, "0a05 0803 10ac02");
    let offered = OfferedTask { lead: lead(), task: Some(task()) };
    let query = OfferedQuery {
        workflow: workflow(),
        query_id: 6,
        run_id: id(8),
        query: Some(WorkflowQuery { query_type: "t".to_owned(), ..WorkflowQuery::default() }),
        task_queue: "q".to_owned(),
        sticky: Some("s".to_owned()),
        version: None,
    };
    let of_version = OfferedQuery { version: version(), ..OfferedQuery::default() };
    check(&of_version, "3a06 0a0162 120164");
    let offer =
        OfferRequest { sender: sender(), tasks: vec![offered], queries: vec![query], withdrawn_queries: vec![1] };
    check(
        &offer,
        "0a0d 0802 110201000000000000 1809 \
         1229 0a06 0803 12020101 121f 0a07 0a020707 120177 1001 1a0171 22020505 2804 320173 3a06 0a0162 120164 \
         1a21 0a07 0a020707 120177 110600000000000000 1a020808 2203 0a0174 2a0171 320173 \
         2208 0100000000000000",
    );
}

#[test]
fn what_leads_are_asked_is_what_it_always_was() {
    let start = |start| StartTaskRequest { workflow: workflow(), run_id: id(8), start: Some(start) };
    let workflow_task = WorkflowTaskStart {
        scheduled_event_id: 5,
        attempt: 2,
        task_queue: "q".to_owned(),
        identity: "i".to_owned(),
        request_id: "r".to_owned(),
        worker_version: None,
        deployment_version: None,
    };
    let versioned = WorkflowTaskStart { deployment_version: version(), ..WorkflowTaskStart::default() };
    check(&versioned, "3a06 0a0162 120164");
    let versioned = ActivityTaskStart { deployment_version: version(), ..ActivityTaskStart::default() };
    check(&versioned, "5206 0a0162 120164");
    let build = Some(WorkerVersionStamp { build_id: "b".to_owned(), use_versioning: false });
    let of_build = WorkflowTaskStart { worker_version: build, ..workflow_task.clone() };
    let activity_task = ActivityTaskStart {
        scheduled_event_id: 5,
        attempt: 2,
        identity: "i".to_owned(),
        request_id: "r".to_owned(),
        ..ActivityTaskStart::default()
    };
    let at_its_place = ActivityTaskStart { task_queue: "q".to_owned(), position: id(5), ..activity_task.clone() };
    let of_no_workflow = ActivityTaskStart {
        entity_kind: 3,
        sdk_name: "s".to_owned(),
        sdk_version: "1".to_owned(),
        ..activity_task.clone()
    };
    check(
        &start(Start::ActivityTask(of_no_workflow)),
        "0a07 0a020707 120177 12020808 2212 0805 1002 1a0169 220172 3803 420173 4a0131",
    );
    let query = QueryStart { query_id: 6, task_queue: "q".to_owned() };
    check(
        &start(Start::WorkflowTask(workflow_task)),
        "0a07 0a020707 120177 12020808 1a0d 0805 1002 1a0171 220169 2a0172",
    );
    check(
        &start(Start::WorkflowTask(of_build)),
        "0a07 0a020707 120177 12020808 1a12 0805 1002 1a0171 220169 2a0172 32030a0162",
    );
    check(&start(Start::ActivityTask(activity_task)), "0a07 0a020707 120177 12020808 220a 0805 1002 1a0169 220172");
    check(
        &start(Start::ActivityTask(at_its_place)),
        "0a07 0a020707 120177 12020808 2211 0805 1002 1a0169 220172 2a0171 32020505",
    );
    check(&start(Start::Query(query)), "0a07 0a020707 120177 12020808 2a0c 090600000000000000 120171");
    let started = StartedTask { poll: id(1), history: vec![id(2), id(3)], next_page_from: Some(4), history_to: 5 };
    check(&StartTaskResponse { started: Some(started) }, "0a10 0a020101 12020202 12020303 1804 2005");
    let page = TaskPageRequest {
        lead: lead(),
        namespace_id: id(7),
        kind: 1,
        task_queue: "q".to_owned(),
        after: id(5),
        limit: 10,
    };
    check(&page, "0a06 0803 12020101 12020707 1801 220171 2a020505 300a");
    check(
        &TaskPageResponse { tasks: vec![task()] },
        "0a1f 0a07 0a020707 120177 1001 1a0171 22020505 2804 320173 3a06 0a0162 120164",
    );
    check(&DeliverRequest { messages: vec![id(1), id(2)] }, "0a020101 0a020202");
    let outcomes = vec![outcome::AGAIN, outcome::DELIVERED, outcome::NOT_FOUND, outcome::TOO_MANY_SIGNALS];
    check(&DeliverResponse { outcomes }, "0a04 00010203");
}

#[test]
fn what_lists_and_workers_ask_is_what_it_always_was() {
    let request = |wanted| VisibilityRequest {
        namespace_id: id(7),
        partitions: vec![1, 2],
        wanted: Some(wanted),
        after: id(5),
        limit: 10,
        stale_max_ms: 0,
        asks_quorum: false,
        slots: Vec::new(),
    };
    let stale = VisibilityRequest { stale_max_ms: 300, asks_quorum: true, ..VisibilityRequest::default() };
    check(&stale, "58ac02 6001");
    let moving = VisibilityRequest { slots: vec![id(1), Bytes::new()], ..request(Wanted::Query("x".to_owned())) };
    check(&moving, "0a020707 12020102 1a0178 32020505 380a 6a020101 6a00");
    check(&request(Wanted::Query("x".to_owned())), "0a020707 12020102 1a0178 32020505 380a");
    check(&request(Wanted::Open(id(1))), "0a020707 12020102 22020101 32020505 380a");
    check(&request(Wanted::Closed(id(1))), "0a020707 12020102 2a020101 32020505 380a");
    check(&request(Wanted::Schedules("x".to_owned())), "0a020707 12020102 420178 32020505 380a");
    check(&request(Wanted::BatchJobs("x".to_owned())), "0a020707 12020102 4a0178 32020505 380a");
    check(&request(Wanted::Activities("x".to_owned())), "0a020707 12020102 520178 32020505 380a");
    let runs = vec![VisibleRun { position: id(1), record: id(2) }];
    check(&VisibilityPageResponse { runs, has_more: true }, "0a08 0a020101 12020202 1001");
    let counts = vec![StatusCount { status: 1, count: 2 }];
    check(&VisibilityCountResponse { counts }, "0a04 0801 1002");
    let asked =
        RecentPollerRequest { namespace_id: id(7), kind: 1, task_queue: "q".to_owned(), within_ms: 300, version: None };
    check(&asked, "0a020707 1001 1a0171 20ac02");
    check(&RecentPollerRequest { version: version(), ..RecentPollerRequest::default() }, "2a06 0a0162 120164");
    check(&RecentPollerResponse { is_polled: true, ..RecentPollerResponse::default() }, "0801");
    let busy =
        RecentPollerResponse { is_polled: false, backlog: 2, backlog_age_ms: 3, add_rate: 1.0, dispatch_rate: 2.0 };
    check(&busy, "1002 1803 21000000000000f03f 290000000000000040");
    let register =
        RegisterWorkerRequest { namespace_id: id(7), version: version(), kind: 1, task_queue: "q".to_owned() };
    check(&register, "0a020707 1206 0a0162 120164 1801 220171");
    let position = Some(MetadataPosition { term: 1, opening: 2, sequence: 3 });
    let registered = RegisterWorkerResponse { refusal: Some("r".to_owned()), position };
    check(&registered, "0a0172 1206 0801 1002 1803");
    let worker =
        EndPollsRequest { namespace_id: id(7), sticky: Some("s".to_owned()), worker_instance_key: "k".to_owned() };
    check(&worker, "0a020707 120173 1a016b");
    let request = crate::api::nexus::v1::Request { endpoint: "e".to_owned(), ..Default::default() };
    let dispatched =
        DispatchNexusRequest { namespace_id: id(7), task_queue: "q".to_owned(), request: Some(request), time_ms: 300 };
    check(&dispatched, "0a020707 120171 1a03 520165 20ac02");
    let handler_error = crate::api::nexus::v1::HandlerError { error_type: "t".to_owned(), ..Default::default() };
    let answer = DispatchNexusResponse {
        response: Some(Default::default()),
        failure: Some(Default::default()),
        handler_error: Some(handler_error),
    };
    check(&answer, "0a00 1200 1a03 0a0174");
    let heartbeat = WorkerHeartbeat { worker_instance_key: "k".to_owned(), ..WorkerHeartbeat::default() };
    check(&WorkersHeardRequest { namespace_id: id(7), heartbeats: vec![heartbeat] }, "0a020707 1203 0a016b");
    check(&MetadataPosition { term: 3, opening: 1, sequence: 2 }, "0803 1001 1802");
}

#[test]
fn what_operators_want_is_what_it_always_was() {
    let transfers = vec![SteeredTransfer { group: 3, to_node: 2 }];
    let steered = SteerRequest {
        is_draining: Some(false),
        kept: vec![1, 300],
        released: vec![4],
        transfers,
        ..Default::default()
    };
    check(&steered, "0800 1203 01ac02 1a01 04 2204 0803 1002");
    let new_disk = NewDisk { node: 3, directory_id: Bytes::from_static(&[1, 2]) };
    check(&SteerRequest { new_disk: Some(new_disk), ..SteerRequest::default() }, "2a06 0803 1202 0102");
    let new_node = NewNode { directory_id: Bytes::from_static(&[1, 2]), address: "a".to_owned(), node: 4 };
    check(&SteerRequest { new_node: Some(new_node), ..Default::default() }, "3209 0a02 0102 1201 61 1804");
    let leaving = LeavingNode { node: 4, stays: true };
    check(&SteerRequest { leaving: Some(leaving), ..Default::default() }, "3a04 0804 1001");
    let settled = SettledGroup { group: 3, version: 300 };
    check(&SteerRequest { settled: Some(settled), ..Default::default() }, "4205 0803 10ac02");
    let numbered = || Some(NumberedRow { id: 7, row: Bytes::from_static(&[1, 2]) });
    let joining = SteerRequest {
        authority: Bytes::from_static(&[3]),
        certificate: numbered(),
        new_token: numbered(),
        revoked_token: Some(8),
        ..Default::default()
    };
    let row = "09 0700000000000000 1202 0102";
    check(&joining, &format!("6201 03 6a0d {row} 720d {row} 79 0800000000000000"));
    check(&SteerRequest { operation: id(7), ..Default::default() }, "8201020707");
    let formats = FormatsOfNode { node: 4, oldest: 1, newest: 300 };
    check(&SteerRequest { formats: Some(formats), ..Default::default() }, "8a0107 0804 1001 18ac02");
    let finalize = Finalize { without: vec![3, 300] };
    check(&SteerRequest { finalize: Some(finalize), ..Default::default() }, "920105 0a03 03ac02");
    let enrols = EnrolRequest {
        directory_id: Bytes::from_static(&[1, 2]),
        address: "a".to_owned(),
        token: Some(7),
        node: 4,
        request: Bytes::from_static(&[3]),
    };
    check(&enrols, "0a02 0102 1201 61 19 0700000000000000 2004 2a01 03");
    let enrolled = EnrolResponse { node: 4, certificate: "c".to_owned(), authority: "a".to_owned() };
    check(&enrolled, "0804 1201 63 1a01 61");
    let node = crate::cluster::Node { node_id: 2, ..crate::cluster::Node::default() };
    let group = crate::cluster::Group { group_id: 5, leader: 2, ..crate::cluster::Group::default() };
    let waiting = vec![WaitingNode { directory_id: id(7), address: "a".to_owned() }];
    check(
        &NodeReport { node: Some(node), groups: vec![group], waiting },
        "0a02 0802 1204 0805 1802 1a07 0a020707 120161",
    );
}

#[test]
fn steps_of_moves_are_what_they_always_were() {
    let asked = MoveStepRequest {
        seen: Some(MetadataPosition { term: 3, opening: 1, sequence: 2 }),
        partition: 2,
        action: MoveAction::Import as i32,
        namespace_id: id(7),
        step_id: 300,
        slots: id(4),
        from: 2,
        to: 5,
        bytes_max: 1,
        after: id(8),
        page: id(9),
        time_ns: 6,
    };
    let first = "0a06 0803 1001 1802 1002 1805 22020707 28ac02 32020404 3802 4005 4801 52020808 5a020909";
    check(&asked, &format!("{first} 61 0600000000000000"));
    let answer =
        MoveStepResponse { slots: id(4), time_ns: 6, page: id(9), next: id(8), is_owned: true, is_released: true };
    check(&answer, "0a020404 11 0600000000000000 1a020909 22020808 2801 3001");
    let numbers = [
        MoveAction::Unknown,
        MoveAction::Plan,
        MoveAction::Freeze,
        MoveAction::Export,
        MoveAction::BeginImport,
        MoveAction::Import,
        MoveAction::Activate,
        MoveAction::Refuse,
        MoveAction::Unfreeze,
        MoveAction::Release,
        MoveAction::IsReleased,
        MoveAction::Forget,
    ];
    assert_eq!(numbers.map(|action| action as i32), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
}
