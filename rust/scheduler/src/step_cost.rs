//! What a step costs on this device: measured at load, corrected by every step since.

/// Weight of a new observation in the speed of the device as a whole: other work on it makes every
/// step slower or faster at once.
const SPEED_WEIGHT: f32 = 0.1;
/// Weight of a new observation in the cost of its own number of tokens, next to the others'.
const SHAPE_WEIGHT: f32 = 0.02;
/// What the speed, and the cost of a knot, may drift to, as factors of what was measured at load.
const SPEED_DRIFT: (f32, f32) = (0.25, 4.0);
const SHAPE_DRIFT: (f32, f32) = (0.5, 2.0);

/// Cost of a step by its number of tokens: measured at load, corrected by every step since.
#[derive(Debug, Clone)]
pub struct StepCost {
    knots: Vec<Knot>,
    rect_ms: f32,
    speed: f32,
}

#[derive(Debug, Clone, Copy)]
struct Knot {
    tokens: f32,
    measured_ms: f32,
    factor: f32,
}

impl Knot {
    fn ms(&self) -> f32 {
        self.measured_ms * self.factor
    }
}

impl StepCost {
    /// From measurements `(tokens, ms)`, ascending by tokens; empty means every step costs 1 ms.
    pub fn new(measured: &[(u32, f32)], rect_ms: f32) -> Self {
        let mut knots: Vec<Knot> = measured
            .iter()
            .map(|&(tokens, ms)| Knot {
                tokens: tokens as f32,
                measured_ms: ms.max(1e-3),
                factor: 1.0,
            })
            .collect();
        if knots.is_empty() {
            knots.push(Knot { tokens: 1.0, measured_ms: 1.0, factor: 1.0 });
        }
        // A longer step that measured faster was noise: more tokens never cost less.
        let mut floor = 0.0_f32;
        for knot in &mut knots {
            floor = floor.max(knot.measured_ms);
            knot.measured_ms = floor;
        }
        Self { knots, rect_ms: rect_ms.max(0.0), speed: 1.0 }
    }

    /// Milliseconds for a step of `tokens` tokens in `rects` rectangles.
    pub fn ms(&self, tokens: u32, rects: u32) -> f32 {
        self.in_rects(self.step_ms(tokens), rects)
    }

    /// The same for one token more each time, without looking for the knots each time.
    pub fn climb(&self, tokens: u32) -> Climb<'_> {
        Climb {
            cost: self,
            tokens,
            start: tokens,
            stop: tokens as f32,
            start_ms: 0.0,
            token_ms: 0.0,
        }
    }

    fn in_rects(&self, step_ms: f32, rects: u32) -> f32 {
        self.speed * (step_ms + self.rect_ms * rects.saturating_sub(1) as f32)
    }

    /// Of one rectangle, at the speed at load.
    fn step_ms(&self, tokens: u32) -> f32 {
        let (low, high, share) = self.around(tokens);
        let (low, high) = (self.knots[low], self.knots[high]);
        let along = |a: f32, b: f32| a + (b - a) * share;
        // Behind the last knot the measured slope goes on: one between corrections may fall.
        if share > 1.0 {
            along(low.measured_ms, high.measured_ms) * high.factor
        } else {
            along(low.ms(), high.ms())
        }
    }

    /// Learn from a step that took `ms`.
    pub fn observe(&mut self, tokens: u32, rects: u32, ms: f32) {
        let surprise = (ms / self.ms(tokens, rects).max(1e-3)).clamp(0.5, 2.0) - 1.0;
        let moved = |factor: f32, weight: f32, (low, high): (f32, f32)| {
            (factor * (1.0 + weight * surprise)).clamp(low, high)
        };
        self.speed = moved(self.speed, SPEED_WEIGHT, SPEED_DRIFT);
        let (low, high, share) = self.around(tokens);
        let share = share.min(1.0);
        for (index, near) in [(low, 1.0 - share), (high, share)] {
            let factor = &mut self.knots[index].factor;
            *factor = moved(*factor, SHAPE_WEIGHT * near, SHAPE_DRIFT);
        }
    }

    /// The knots on both sides and how far between them; beyond the last, the last slope goes on.
    fn around(&self, tokens: u32) -> (usize, usize, f32) {
        let tokens = tokens as f32;
        let last = self.knots.len() - 1;
        let high = self.knots.iter().position(|knot| knot.tokens >= tokens).unwrap_or(last);
        let low = high.saturating_sub(1);
        let width = self.knots[high].tokens - self.knots[low].tokens;
        if width <= 0.0 {
            return (high, high, 0.0);
        }
        (low, high, ((tokens - self.knots[low].tokens) / width).max(0.0))
    }
}

/// Costs of longer and longer steps; between two knots each token costs the same.
#[derive(Debug)]
pub struct Climb<'a> {
    cost: &'a StepCost,
    tokens: u32,
    /// Ends of the stretch it is on.
    start: u32,
    stop: f32,
    start_ms: f32,
    token_ms: f32,
}

impl Climb<'_> {
    /// Milliseconds for a step of one token more than last time, in `rects` rectangles.
    pub fn next_ms(&mut self, rects: u32) -> f32 {
        self.tokens += 1;
        if self.tokens as f32 > self.stop {
            self.enter_stretch();
        }
        let step_ms = self.start_ms + self.token_ms * (self.tokens - self.start) as f32;
        self.cost.in_rects(step_ms, rects)
    }

    fn enter_stretch(&mut self) {
        let tokens = self.tokens as f32;
        let ahead = self.cost.knots.iter().map(|knot| knot.tokens).find(|&it| it > tokens);
        self.start = self.tokens;
        self.stop = ahead.unwrap_or(f32::INFINITY);
        self.start_ms = self.cost.step_ms(self.tokens);
        self.token_ms = self.cost.step_ms(self.tokens + 1) - self.start_ms;
    }
}
