//! What a request must become: the model's plain autoregressive output, computed without a scheduler.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use mlxspec_scheduler::config::ModelShape;
use mlxspec_scheduler::ids::ModelId;
use mlxspec_scheduler::request::{Finish, Submission};
use mlxspec_scheduler::sampling::Sampling;

/// The token that fills what nobody reads; never generated.
pub(crate) const PADDING: u32 = 0;
/// Generated tokens are `1..=VOCAB`; tokens from here on name scripts.
pub(crate) const FIRST_NAME: u32 = 1_000_000;
const VOCAB: u64 = 5;
/// In a prediction: a token that is never generated.
const WRONG: u32 = VOCAB as u32 + 1;
/// Most tokens repeat the one this many positions before.
const PERIOD: usize = 3;
const CHAIN_START: u64 = 0x243F_6A88_85A3_08D3;

/// One position as attention sees it: a token, and a hash of it and all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) token: u32,
    pub(crate) chain: u64,
}

impl Seen {
    pub(crate) fn after(before: Option<Self>, token: u32) -> Self {
        let chain = before.map_or(CHAIN_START, |it| it.chain);
        Self { token, chain: mix(chain ^ u64::from(token)) }
    }
}

/// The token after the row `seen`: greedy, or drawn with a noise key.
pub(crate) fn next_token(seen: &[Seen], noise: Option<[u32; 2]>) -> u32 {
    let mut hash = seen.last().map_or(CHAIN_START, |it| it.chain);
    if let Some([low, high]) = noise {
        hash = mix(hash ^ (u64::from(high) << 32 | u64::from(low)));
    }
    let back = seen.len().checked_sub(PERIOD).map(|at| seen[at].token);
    match back.filter(|&token| token < FIRST_NAME) {
        Some(token) if hash % 8 < 6 => token,
        _ => 1 + ((hash >> 8) % VOCAB) as u32,
    }
}

/// `SplitMix64`'s output function.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The promised noise key: from seed and position alone.
fn noise_key(seed: u64, position: u32) -> [u32; 2] {
    let mixed = mix(seed ^ mix(u64::from(position)));
    [mixed as u32, (mixed >> 32) as u32]
}

/// A request, and its output if it runs alone, token by token.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) name: u32,
    pub(crate) num_prompt: usize,
    pub(crate) max_len: u32,
    pub(crate) sampling: Sampling,
    pub(crate) stop: Option<u32>,
    pub(crate) speculate: bool,
    pub(crate) predicted: bool,
    pub(crate) salt: u8,
    pub(crate) max_draft: u32,
    pub(crate) priority: i32,
    pub(crate) harvest: bool,
    /// Prompt and output.
    pub(crate) tokens: Vec<u32>,
    pub(crate) finish: Finish,
}

/// What a test chooses about a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) num_prompt: usize,
    pub(crate) max_tokens: u32,
    pub(crate) temperature: f32,
    pub(crate) stop: Option<u32>,
    pub(crate) speculate: bool,
    /// Whether the client predicts the answer, right but for a few tokens.
    pub(crate) predicted: bool,
    pub(crate) salt: u8,
    pub(crate) max_draft: u32,
    pub(crate) priority: i32,
    /// Whether something is gathered of its prompt.
    pub(crate) harvest: bool,
}

impl Wish {
    /// A greedy, drafted request without stop tokens.
    pub(crate) fn plain(num_prompt: usize, max_tokens: u32) -> Self {
        Self {
            num_prompt,
            max_tokens,
            temperature: 0.0,
            stop: None,
            speculate: true,
            predicted: false,
            salt: 0,
            max_draft: u32::MAX,
            priority: 0,
            harvest: false,
        }
    }
}

impl Script {
    /// Compute what becomes of the `number`th request.
    pub(crate) fn new(number: u32, wish: Wish, max_len: u32) -> Self {
        Self::after(&[], number, wish, max_len)
    }

    /// The same for a prompt that begins like an earlier one, as far as it leaves room for a name.
    pub(crate) fn after(beginning: &[u32], number: u32, wish: Wish, max_len: u32) -> Self {
        let seed = mix(u64::from(number));
        let sampling = Sampling { temperature: wish.temperature, seed, ..Sampling::default() };
        let shared = beginning.len().min(wish.num_prompt.saturating_sub(1));
        let mut row: Vec<Seen> = Vec::new();
        for token in beginning[..shared].iter().copied().chain([FIRST_NAME + number]) {
            row.push(Seen::after(row.last().copied(), token));
        }
        while row.len() < wish.num_prompt {
            let token = next_token(&row, Some([number, 7]));
            row.push(Seen::after(row.last().copied(), token));
        }
        let mut finish = Finish::Length;
        while (row.len() as u32) < max_len {
            let noise = (wish.temperature > 0.0).then(|| noise_key(seed, row.len() as u32));
            let token = next_token(&row, noise);
            row.push(Seen::after(row.last().copied(), token));
            if wish.stop == Some(token) {
                finish = Finish::Stop;
                break;
            }
        }
        Self {
            name: FIRST_NAME + number,
            num_prompt: wish.num_prompt,
            max_len,
            sampling,
            stop: wish.stop,
            speculate: wish.speculate,
            predicted: wish.predicted,
            salt: wish.salt,
            max_draft: wish.max_draft,
            priority: wish.priority,
            harvest: wish.harvest,
            tokens: row.iter().map(|it| it.token).collect(),
            finish,
        }
    }

    pub(crate) fn output(&self) -> &[u32] {
        &self.tokens[self.num_prompt..]
    }

    pub(crate) fn submission(&self, model: ModelId) -> Submission {
        Submission {
            model,
            prompt: self.tokens[..self.num_prompt].to_vec(),
            max_tokens: Some(self.max_len - self.num_prompt as u32),
            stop_tokens: self.stop.into_iter().collect(),
            sampling: self.sampling.clone(),
            speculate: self.speculate,
            max_draft: self.max_draft,
            priority: self.priority,
            cache_salt: format!("salt {}", self.salt).into(),
            prediction: if self.predicted { self.prediction() } else { Vec::new() },
            keep_alive: None,
            harvest: if self.harvest { self.name } else { 0 },
        }
    }

    /// The output with every seventh token wrong.
    fn prediction(&self) -> Vec<u32> {
        let tokens = self.output().iter().enumerate();
        tokens.map(|(at, &token)| if at % 7 == 6 { WRONG } else { token }).collect()
    }
}

/// The length at which a request ends, or `None` if it can never run.
pub(crate) fn max_len(shape: &ModelShape, wish: Wish) -> Option<u32> {
    let prompt = wish.num_prompt as u32;
    let wanted = (prompt + wish.max_tokens).min(shape.max_context);
    let least = prompt + wish.max_tokens.min(1);
    (least <= shape.max_context && wanted <= shape.longest_row()).then_some(wanted)
}

/// All scripts of a test by their names, shared between submitters and the runner.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scripts {
    by_name: Arc<Mutex<HashMap<u32, Arc<Script>>>>,
    /// Positions a row needs behind its last token.
    pub(crate) padding_behind: u32,
}

impl Scripts {
    pub(crate) fn new(shape: &ModelShape) -> Self {
        Self { by_name: Arc::default(), padding_behind: shape.row_need(0) }
    }

    pub(crate) fn add(&self, script: Script) -> Arc<Script> {
        let script = Arc::new(script);
        self.by_name.lock().unwrap().insert(script.name, Arc::clone(&script));
        script
    }

    pub(crate) fn get(&self, name: u32) -> Arc<Script> {
        Arc::clone(&self.by_name.lock().unwrap()[&name])
    }
}
