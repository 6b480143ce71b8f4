//! Runs a target: the corpus first, then inputs that are changed at random, until time is up or one fails.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use crate::corpus::Corpus;
use crate::targets::Target;
use everlog_random::Random;

/// Inputs that are changed; those that led somewhere new, beyond the corpus.
const POOL_MAX: usize = 4_000;
/// Tries to make an input smaller that fails.
const SHRINKS_MAX: usize = 2_000;

/// An input that fails, and how.
pub(crate) struct Finding {
    pub(crate) what: String,
    pub(crate) input: Vec<u8>,
}

pub(crate) struct Run {
    target: Box<dyn Target>,
    random: Random,
    outcomes: HashSet<String>,
    pool: Vec<Vec<u8>>,
    executions: u64,
    /// Where the input of the moment is noted.
    note: Option<File>,
}

impl Run {
    /// `note` names a file in which the input of the moment is noted, for when it ends the process.
    pub(crate) fn new(target: Box<dyn Target>, seed: u64, note: Option<&Path>) -> Run {
        let note = note.and_then(|path| File::options().write(true).open(path).ok());
        let (outcomes, pool) = (HashSet::new(), Vec::new());
        Run { target, random: Random::new(seed), outcomes, pool, executions: 0, note }
    }

    /// One input alone.
    pub(crate) fn replay(&mut self, file: &Path) -> Result<String, Finding> {
        let input = std::fs::read(file)
            .map_err(|error| Finding { what: format!("{}: {error}", file.display()), input: vec![] })?;
        let outcome = self.execute(&input)?;
        self.finish()?;
        Ok(outcome)
    }

    /// All there is, for `time`. Returns what to tell of it.
    pub(crate) fn go(&mut self, corpus: &Corpus, time: Duration, grow: bool) -> Result<String, Finding> {
        let setup = |what: String| Finding { what, input: Vec::new() };
        let seeds = self.target.seeds().map_err(&setup)?;
        let files = corpus.read().map_err(|error| setup(format!("the corpus: {error}")))?;
        let known = files.len();
        for input in seeds.into_iter().chain(files.into_iter().map(|(_, input)| input)) {
            let outcome = self.execute(&input)?;
            self.outcomes.insert(outcome);
            self.pool.push(input);
        }
        let began = Instant::now();
        while began.elapsed() < time {
            let other = self.random.below(self.pool.len());
            let mut input = self.random.of(&self.pool).clone();
            self.target.change(&mut self.random, &mut input, &self.pool[other]);
            let outcome = match self.execute(&input) {
                Ok(outcome) => outcome,
                Err(finding) => return Err(self.shrink(finding)),
            };
            if self.outcomes.insert(outcome) && self.pool.len() < POOL_MAX {
                if grow {
                    corpus.grow(&input).map_err(|error| setup(format!("the corpus: {error}")))?;
                }
                self.pool.push(input);
            }
        }
        self.finish()?;
        Ok(format!("{} inputs, {known} from the corpus, {} outcomes", self.executions, self.outcomes.len()))
    }

    fn execute(&mut self, input: &[u8]) -> Result<String, Finding> {
        self.executions += 1;
        if let Some(note) = &self.note {
            // Without the note an input that ends the process is not known, and that is all.
            let _ = note.write_all_at(&[&(input.len() as u64).to_le_bytes(), input].concat(), 0);
        }
        let panic = quiet_panics();
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| self.target.run(input)));
        let what = match ran {
            Ok(Ok(outcome)) => return Ok(outcome),
            Ok(Err(what)) => what,
            Err(_) => panic.lock().map(|told| told.clone()).unwrap_or_default(),
        };
        Err(Finding { what, input: input.to_vec() })
    }

    fn finish(&mut self) -> Result<(), Finding> {
        self.target.finish().map_err(|what| Finding { what, input: Vec::new() })
    }

    /// The smallest input that fails, as far as leaving out pieces gets.
    fn shrink(&mut self, mut finding: Finding) -> Finding {
        if !self.target.shrinks() {
            return finding;
        }
        let mut tries = 0;
        let mut piece = finding.input.len() / 2;
        while piece > 0 {
            let mut at = 0;
            while at < finding.input.len() && tries < SHRINKS_MAX {
                tries += 1;
                let mut smaller = finding.input.clone();
                smaller.drain(at..(at + piece).min(smaller.len()));
                match self.execute(&smaller) {
                    Err(still) => finding = still,
                    Ok(_) => at += piece,
                }
            }
            piece /= 2;
        }
        finding
    }
}

/// The input that was noted last.
pub(crate) fn noted(path: &Path) -> io::Result<Vec<u8>> {
    let note = std::fs::read(path)?;
    let (length, input) = note.split_first_chunk::<8>().ok_or(io::ErrorKind::UnexpectedEof)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    Ok(input[..length.min(input.len())].to_vec())
}

/// Where the last panic is told. Panics are findings here, not noise on the terminal.
fn quiet_panics() -> Arc<Mutex<String>> {
    static HOOK: Once = Once::new();
    static TOLD: Mutex<Option<Arc<Mutex<String>>>> = Mutex::new(None);
    let mut told = TOLD.lock().expect("nothing panics under it");
    let told = Arc::clone(told.get_or_insert_default());
    HOOK.call_once(|| {
        let told = Arc::clone(&told);
        std::panic::set_hook(Box::new(move |panic| {
            if let Ok(mut told) = told.lock() {
                *told = panic.to_string().replace('\n', " ");
            }
        }));
    });
    told
}
