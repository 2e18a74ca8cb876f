//! How many requests may run at once in one model, or in several together.

use crate::config::Limit;
use crate::model::Model;

impl Limit {
    /// Most requests that may run in `model`, which it covers as it covers the `others`. The first in
    /// line of all run first: who waits elsewhere for longer counts as running.
    pub(crate) fn room(&self, model: &Model, others: &[&Model]) -> usize {
        let running: usize = others.iter().map(|it| it.num_running()).sum();
        let may_run = model.turns().enumerate().take_while(|&(ahead, turn)| {
            let before: usize = others.iter().map(|it| it.num_before(turn)).sum();
            running + model.num_running() + ahead + before < self.max_running
        });
        model.num_running() + may_run.count()
    }
}
