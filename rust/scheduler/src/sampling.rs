//! What a caller says about drawing a request's tokens.

/// How the runner draws the next token. The default is greedy and changes no logit.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the largest.
    pub temperature: f32,
    /// Keep the likeliest tokens up to this mass; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely, relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Exclude top choices, now and then.
    pub xtc: Xtc,
    /// Seeds the noise.
    pub seed: u64,
    /// What occurred before becomes less likely.
    pub penalties: Penalties,
    /// Added to the logits of these tokens.
    pub bias: Vec<(u32, f32)>,
    /// The only tokens that may be drawn; `None` allows all.
    pub allowed: Option<Vec<u32>>,
    /// Token sequences that never occur in the output.
    pub banned: Vec<Vec<u32>>,
    /// No stop token is drawn before this many tokens were generated.
    pub min_tokens: u32,
    /// Report how likely each token was, and this many alternatives; `None` reports nothing.
    pub logprobs: Option<u32>,
    /// Names the runner's grammar that the output must follow; 0 none.
    pub constraint: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            top_k: 0,
            xtc: Xtc::default(),
            seed: 0,
            penalties: Penalties::default(),
            bias: Vec::new(),
            allowed: None,
            banned: Vec::new(),
            min_tokens: 0,
            logprobs: None,
            constraint: 0,
        }
    }
}

/// With this probability, all tokens above the threshold but the least likely of them are dropped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Xtc {
    /// Of happening at a position; 0 never.
    pub probability: f32,
    /// Tokens at least this likely are top choices.
    pub threshold: f32,
    /// Tokens that are never dropped.
    pub spared: Vec<u32>,
}

/// What occurred before becomes less likely. The default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides positive and multiplies negative logits of tokens of the prompt and the output.
    pub repetition: f32,
    /// Subtracted from the logits of the output's tokens.
    pub presence: f32,
    /// Subtracted as often as the token occurred in the output.
    pub frequency: f32,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { repetition: 1.0, presence: 0.0, frequency: 0.0 }
    }
}

impl Penalties {
    /// Whether anything is penalised.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether the prompt's tokens count too.
    #[expect(clippy::float_cmp, reason = "exactly 1 is the value that asks for nothing")]
    pub fn reads_prompt(&self) -> bool {
        self.repetition != 1.0
    }
}
