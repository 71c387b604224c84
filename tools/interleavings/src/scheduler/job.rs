//! A job as the inbox sees it: who asks, until when, and where to say how it went.

use crate::sync::{Arc, Mutex};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(pub u64);

pub struct Job {
    pub client: Client,
    pub deadline: Instant,
    pub events: Events,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    Deadline,
    ShuttingDown,
}

/// What was said about a job; its receiver never goes away.
#[derive(Clone)]
pub struct Events(Arc<Mutex<Vec<Event>>>);

impl Default for Events {
    fn default() -> Self {
        Events(Arc::new(Mutex::new(Vec::new())))
    }
}

impl Events {
    pub fn is_closed(&self) -> bool {
        false
    }

    /// # Errors
    /// Never: the channel of the server is closed where its receiver is gone.
    pub fn send(&self, event: Event) -> Result<(), Event> {
        self.0.lock().expect("nothing panics with it").push(event);
        Ok(())
    }

    pub fn seen(&self) -> Vec<Event> {
        self.0.lock().expect("nothing panics with it").clone()
    }
}
