//! Who waits for a model to be in memory.

use crate::error::{Refusal, SubmitError};
use crate::ids::RequestId;
use crate::model::Event;
use crate::request::{Finish, Request, RequestStats};

/// Waits for a model.
#[derive(Debug)]
pub enum Waiter {
    /// A request to run in it.
    Request(Box<Request>),
    /// Somebody who asked for the model alone.
    Caller {
        /// Names the caller in the event that ends the wait.
        id: RequestId,
        /// When it came.
        since_ns: u64,
    },
    /// The configuration, which wants the model from the start.
    Preload,
}

impl Waiter {
    /// Who hears of the end, if anybody.
    pub fn id(&self) -> Option<RequestId> {
        match self {
            Self::Request(request) => Some(request.id),
            Self::Caller { id, .. } => Some(*id),
            Self::Preload => None,
        }
    }

    /// When it came.
    pub fn since_ns(&self) -> u64 {
        match self {
            Self::Request(request) => request.submitted_ns,
            Self::Caller { since_ns, .. } => *since_ns,
            Self::Preload => 0,
        }
    }

    /// The event that ends it.
    pub fn ended(self, finish: Finish) -> Option<Event> {
        match self {
            Self::Request(request) => Some(request.into_end(finish)),
            Self::Caller { id, .. } => Some(Event::end(id, finish, RequestStats::default())),
            Self::Preload => None,
        }
    }

    /// The event that tells why the model cannot be had.
    pub fn refused(self, refusal: Refusal) -> Option<Event> {
        self.ended(Finish::Refused(SubmitError::Unavailable(refusal)))
    }
}
