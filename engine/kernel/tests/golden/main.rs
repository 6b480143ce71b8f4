//! Golden scripts: each file under `tests/scripts` is a test of its own. It tells a workflow's story in commands, and shows
//! behind each what the kernel decided: the events, the rows, the effects and the reply.
//!
//! ```text
//!   start queue=q                 commands of the script, see runner.rs
//!   poll-workflow
//!   ---
//!   started run1 ...              what the kernel decided, see print.rs
//! ```
//!
//! Behind the scenes every command is checked against the invariants in `invariants.rs`. To write a script, leave out what is
//! behind `---`, run with `UPDATE_GOLDENFILES=1`, and read the result line by line: it must be right, not just recorded.

mod arguments;
mod debug;
mod invariants;
mod print;
mod random;
mod requests;
mod runner;
mod store;

use std::path::Path;

test_each_file::test_each_path! { in "engine/kernel/tests/scripts" as scripts => run }

fn run(path: &Path) {
    if let Err(error) = goldenscript::run(&mut runner::Runner::new(), path) {
        panic!("{}: {error}", path.display());
    }
}
