//! Turns at something that only so many can do at once. Those who wait are served by caller in
//! rotation, so that one who asks a hundred times keeps nobody else waiting for all of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// What so many may do at once.
#[derive(Debug)]
pub struct Turns {
    at_once: usize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    running: usize,
    waiting: usize,
    /// Callers who wait, in the order in which one of each is served next.
    callers: VecDeque<Waiting>,
}

/// One caller's part of the line.
#[derive(Debug)]
struct Waiting {
    caller: String,
    asked: VecDeque<oneshot::Sender<Turn>>,
}

/// A turn; dropping it lets the next one have it.
#[derive(Debug)]
pub struct Turn {
    of: Option<Arc<Turns>>,
}

/// How many may wait.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// For one caller.
    pub of_caller: usize,
    /// For all together.
    pub of_all: usize,
}

/// What asking for a turn leads to.
#[derive(Debug)]
pub enum Asked {
    /// It is there.
    Now(Turn),
    /// It comes, unless whoever waits gives up by dropping this.
    Later(oneshot::Receiver<Turn>),
    /// Too many wait already.
    Full,
}

impl Turns {
    /// So many at once.
    #[must_use]
    pub fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self {
            at_once,
            line: Mutex::default(),
        })
    }

    /// How many at once.
    #[must_use]
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// How many run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.lock().running
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Asks for a turn.
    pub fn ask(self: &Arc<Self>, caller: &str, places: Places) -> Asked {
        let mut line = self.lock();
        line.forget_those_who_gave_up();
        // Nobody overtakes those who wait.
        if line.running < self.at_once && line.waiting == 0 {
            line.running += 1;
            return Asked::Now(self.turn());
        }
        let own = line
            .callers
            .iter()
            .position(|waiting| waiting.caller == caller);
        let waiting = own.map_or(0, |own| line.callers[own].asked.len());
        if waiting >= places.of_caller || line.waiting >= places.of_all {
            return Asked::Full;
        }
        let (tell, told) = oneshot::channel();
        match own {
            Some(own) => line.callers[own].asked.push_back(tell),
            None => line.callers.push_back(Waiting {
                caller: caller.to_owned(),
                asked: VecDeque::from([tell]),
            }),
        }
        line.waiting += 1;
        Asked::Later(told)
    }

    fn turn(self: &Arc<Self>) -> Turn {
        Turn {
            of: Some(Arc::clone(self)),
        }
    }

    /// Gives a turn that is over to the next who waits.
    fn over(self: &Arc<Self>) {
        let mut line = self.lock();
        while let Some(next) = line.next() {
            // One that comes back is not to be given on by its own drop, under this lock.
            match next.send(self.turn()) {
                Ok(()) => return,
                Err(mut unwanted) => unwanted.of = None,
            }
        }
        line.running -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Who is next: the first of the caller whose turn it is, who then goes to the end.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let mut waiting = self.callers.pop_front()?;
        let next = waiting.asked.pop_front();
        if !waiting.asked.is_empty() {
            self.callers.push_back(waiting);
        }
        self.waiting -= usize::from(next.is_some());
        next
    }

    fn forget_those_who_gave_up(&mut self) {
        for waiting in &mut self.callers {
            let before = waiting.asked.len();
            waiting.asked.retain(|asked| !asked.is_closed());
            self.waiting -= before - waiting.asked.len();
        }
        self.callers.retain(|waiting| !waiting.asked.is_empty());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.of.take() {
            turns.over();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: Places = Places {
        of_caller: 3,
        of_all: 5,
    };

    fn later(asked: Asked) -> oneshot::Receiver<Turn> {
        match asked {
            Asked::Later(told) => told,
            other => panic!("{other:?}"),
        }
    }

    fn now(asked: Asked) -> Turn {
        match asked {
            Asked::Now(turn) => turn,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn callers_are_served_in_rotation() {
        let turns = Turns::new(1);
        let mut running = now(turns.ask("a", PLACES));
        let mut waiting = Vec::new();
        for caller in ["a", "a", "a", "b", "c"] {
            waiting.push((caller, later(turns.ask(caller, PLACES))));
        }
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(running);
            let next = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(place, (_, told))| told.try_recv().ok().map(|turn| (place, turn)));
            let (place, turn) = next.expect("one is told");
            running = turn;
            order.push(waiting.remove(place).0);
        }
        assert_eq!(order, ["a", "b", "c", "a", "a"]);
    }

    #[test]
    fn one_caller_leaves_places_for_others_and_all_have_an_end() {
        let turns = Turns::new(1);
        let _running = now(turns.ask("a", PLACES));
        let mut waiting: Vec<_> = (0..3).map(|_| later(turns.ask("a", PLACES))).collect();
        assert!(matches!(turns.ask("a", PLACES), Asked::Full));
        waiting.extend((0..2).map(|_| later(turns.ask("b", PLACES))));
        assert!(matches!(turns.ask("c", PLACES), Asked::Full));
        assert_eq!(turns.waiting(), 5);
    }

    #[test]
    fn who_gives_up_holds_nobody_up() {
        let turns = Turns::new(1);
        let running = now(turns.ask("a", PLACES));
        let gone = later(turns.ask("a", PLACES));
        let mut stays = later(turns.ask("b", PLACES));
        drop(gone);
        drop(running);
        let turn = stays.try_recv().expect("it is next");
        // One that was told, and does not take it, gives it back.
        let untaken = later(turns.ask("c", PLACES));
        drop(turn);
        drop(untaken);
        let again = now(turns.ask("d", PLACES));
        drop(again);
        assert_eq!((turns.running(), turns.waiting()), (0, 0));
    }

    #[test]
    fn no_more_than_so_many_run() {
        let turns = Turns::new(2);
        let first = now(turns.ask("a", PLACES));
        let _second = now(turns.ask("b", PLACES));
        let mut third = later(turns.ask("c", PLACES));
        assert!(third.try_recv().is_err());
        drop(first);
        assert!(third.try_recv().is_ok());
    }
}
