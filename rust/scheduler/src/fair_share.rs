//! Whose step is next: models with work share the device's time by their weights.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng 1996), with steps for packets. Each model has a clock of
//! virtual time that a step moves on by its measured milliseconds over the model's weight; whose clock
//! is least has the next step. Over any time in which two models both have something to do, what they
//! get by weight differs by no more than one longest step of each. Who had nothing to do comes back at
//! the clock of the step before: idle time is no credit.

/// The clocks of all models.
#[derive(Debug, Clone)]
pub struct FairShare {
    weights: Vec<f64>,
    clocks: Vec<f64>,
    /// Had something to do when last asked.
    busy: Vec<bool>,
    /// The clock of the last step's model when the step began.
    now: f64,
}

impl FairShare {
    /// All clocks stand at 0. Weights that are not above 0 count as 1.
    pub fn new(weights: impl IntoIterator<Item = f32>) -> Self {
        let usable = |it: f32| if it.is_finite() && it > 0.0 { f64::from(it) } else { 1.0 };
        let weights: Vec<f64> = weights.into_iter().map(usable).collect();
        let num_models = weights.len();
        Self { weights, clocks: vec![0.0; num_models], busy: vec![false; num_models], now: 0.0 }
    }

    /// Models that may have something to do, in the order in which to ask them. Each that is asked has
    /// to be told of: [`Self::begin`] or [`Self::pass`].
    pub fn order(&mut self, has_work: impl Fn(usize) -> bool) -> Vec<usize> {
        for (at, clock) in self.clocks.iter_mut().enumerate() {
            let works = has_work(at);
            if works && !self.busy[at] {
                *clock = clock.max(self.now);
            }
            self.busy[at] = works;
        }
        let mut order: Vec<usize> = (0..self.busy.len()).filter(|&at| self.busy[at]).collect();
        order.sort_by(|&a, &b| self.clocks[a].total_cmp(&self.clocks[b]));
        order
    }

    /// The model has the next step.
    pub fn begin(&mut self, model: usize) {
        self.now = self.now.max(self.clocks[model]);
    }

    /// The model, when asked, had nothing to do.
    pub fn pass(&mut self, model: usize) {
        self.busy[model] = false;
    }

    /// The model has had the device for so long.
    pub fn charge(&mut self, model: usize, ms: f32) {
        if let Some(clock) = self.clocks.get_mut(model) {
            *clock += f64::from(ms.max(0.0)) / self.weights[model];
        }
    }
}
