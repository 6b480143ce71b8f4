//! The data directory: created once, locked while used, refused when it is somebody else's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use everlog_storage::directory::{DataDirectory, DirectoryError, NodeIdentity};

fn files(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut files: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

#[test]
fn a_new_directory_is_created_and_keeps_its_id() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a").join("b");
    let directory = DataDirectory::open(&path).unwrap();
    let id = directory.id();
    assert_eq!(files(&path), ["FORMAT", "LOCK", "log", "state"]);
    assert!(directory.log_path().is_dir() && directory.state_path().is_dir());
    assert_eq!(std::fs::read_to_string(path.join("FORMAT")).unwrap(), format!("format 3\nid {id}\n"));
    drop(directory);
    assert_eq!(DataDirectory::open(&path).unwrap().id(), id);
    assert_ne!(DataDirectory::open(&temporary.path().join("other")).unwrap().id(), id);
}

#[test]
fn a_directory_in_use_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let first = DataDirectory::open(temporary.path()).unwrap();
    let error = DataDirectory::open(temporary.path()).unwrap_err();
    assert!(matches!(error, DirectoryError::InUse { .. }));
    let path = temporary.path().display();
    assert_eq!(error.to_string(), format!("data directory {path} is in use by another process"));
    drop(first);
    DataDirectory::open(temporary.path()).unwrap();
}

#[test]
fn another_format_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    drop(DataDirectory::open(temporary.path()).unwrap());
    for other in [2, 4] {
        std::fs::write(temporary.path().join("FORMAT"), format!("format {other}\nsomething else\n")).unwrap();
        let error = DataDirectory::open(temporary.path()).unwrap_err();
        let path = temporary.path().display();
        let expected = format!("data directory {path} has format {other}, but this version of everlog reads format 3");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_damaged_format_file_is_refused() {
    for text in ["", "format\n", "format two\nid x\n", "format 3\n", "format 3\nid x\n"] {
        let temporary = tempfile::tempdir().unwrap();
        drop(DataDirectory::open(temporary.path()).unwrap());
        std::fs::write(temporary.path().join("FORMAT"), text).unwrap();
        let error = DataDirectory::open(temporary.path()).unwrap_err();
        assert!(matches!(error, DirectoryError::CorruptFormat { .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_alone() {
    let temporary = tempfile::tempdir().unwrap();
    std::fs::write(temporary.path().join("thesis.tex"), "").unwrap();
    let error = DataDirectory::open(temporary.path()).unwrap_err();
    assert!(matches!(error, DirectoryError::NotADataDirectory { .. }));
    assert!(error.to_string().contains("thesis.tex"));
    assert_eq!(files(temporary.path()), ["thesis.tex"]);
}

#[test]
fn rows_without_a_format_file_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open(temporary.path()).unwrap();
    std::fs::write(directory.state_path().join("CURRENT"), "").unwrap();
    drop(directory);
    std::fs::remove_file(temporary.path().join("FORMAT")).unwrap();
    assert!(matches!(DataDirectory::open(temporary.path()), Err(DirectoryError::NotADataDirectory { .. })));
}

#[test]
fn an_interrupted_creation_is_finished() {
    let temporary = tempfile::tempdir().unwrap();
    for directory in ["log", "lost+found"] {
        std::fs::create_dir(temporary.path().join(directory)).unwrap();
    }
    std::fs::write(temporary.path().join("LOCK"), "").unwrap();
    std::fs::write(temporary.path().join("FORMAT.new"), "for").unwrap();
    DataDirectory::open(temporary.path()).unwrap();
    assert_eq!(files(temporary.path()), ["FORMAT", "LOCK", "log", "lost+found", "state"]);
}

#[test]
fn a_file_is_no_directory() {
    let temporary = tempfile::NamedTempFile::new().unwrap();
    let error = DataDirectory::open(temporary.path()).unwrap_err();
    assert!(matches!(error, DirectoryError::Io { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn a_node_keeps_its_identity_and_counts_its_starts() {
    let temporary = tempfile::tempdir().unwrap();
    let node_file = temporary.path().join("NODE");
    let directory = DataDirectory::open(temporary.path()).unwrap();
    let cluster: uuid::Uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
    let first = directory.count_start(cluster, 3).unwrap();
    assert_eq!(first, NodeIdentity { cluster_id: cluster, node_id: 3, start_count: 1, is_bootstrapped: false });
    let text = "cluster 67e55044-10b1-426f-9247-bb680e5fe0c8\nnode 3\nstarts 1\nbootstrap pending\n";
    assert_eq!(std::fs::read_to_string(&node_file).unwrap(), text);

    // From now on it is who it is, whatever it is told.
    std::fs::write(directory.log_path().join("segment"), "x").unwrap();
    let second = directory.count_start(directory.id(), 1).unwrap();
    assert_eq!(second, NodeIdentity { start_count: 2, ..first });
    directory.finish_bootstrap().unwrap();
    drop(directory);
    let directory = DataDirectory::open(temporary.path()).unwrap();
    let third = directory.count_start(directory.id(), 1).unwrap();
    assert_eq!(third, NodeIdentity { start_count: 3, is_bootstrapped: true, ..first });
    let text = "cluster 67e55044-10b1-426f-9247-bb680e5fe0c8\nnode 3\nstarts 3\nbootstrap done\n";
    assert_eq!(std::fs::read_to_string(&node_file).unwrap(), text);

    // Half a file that a crash left behind is no harm.
    std::fs::write(temporary.path().join("NODE.new"), "clus").unwrap();
    assert_eq!(directory.count_start(cluster, 3).unwrap().start_count, 4);
}

#[test]
fn a_node_file_that_is_damaged_or_lost_is_refused() {
    for text in ["", "cluster x\nnode 1\nstarts 1\nbootstrap done\n", "node 1\nstarts 1\nbootstrap done\n"] {
        let temporary = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(temporary.path()).unwrap();
        std::fs::write(temporary.path().join("NODE"), text).unwrap();
        let error = directory.count_start(directory.id(), 1).unwrap_err();
        assert!(matches!(error, DirectoryError::CorruptNode { .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
    let temporary = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open(temporary.path()).unwrap();
    directory.count_start(directory.id(), 1).unwrap();
    std::fs::write(directory.state_path().join("CURRENT"), "x").unwrap();
    std::fs::remove_file(temporary.path().join("NODE")).unwrap();
    assert!(matches!(directory.count_start(directory.id(), 1), Err(DirectoryError::CorruptNode { .. })));
}
