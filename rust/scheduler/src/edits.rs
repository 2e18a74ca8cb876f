//! What a request's parameters do to the logits of the positions that it samples.
//!
//! An edit changes one token's logit at a run of sampled positions. Position `j` of a row is drawn as
//! if the drafts before it were its output, so an edit may begin or end between two drafts:
//!
//! ```text
//! output so far  a b        sampled positions   0    1    2    3
//! drafts         b c b      token b, count      1    2    2    3
//!                           edits of b          1 |  2    2 |  3
//! ```

use rustc_hash::FxHashMap;

use crate::draft::Draft;
use crate::request::Request;
use crate::sampling::Penalties;

/// One token's logit at `len` sampled positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edit {
    /// Index into the step's sampled positions.
    pub at: u32,
    /// Number of positions.
    pub len: u32,
    /// The token.
    pub token: u32,
    /// What happens to its logit.
    pub change: Change,
}

/// What happens to a logit. The runner makes all changes of one kind before those of the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Where some tokens are allowed, no others are.
    Allow,
    /// Add this; negative infinity bans the token.
    Add(f32),
    /// Divide a positive logit by the factor, multiply a negative one by it, then subtract.
    Penalize {
        /// 1 changes nothing.
        factor: f32,
        /// 0 changes nothing.
        subtract: f32,
    },
    /// Never dropped as a top choice.
    Spare,
}

/// Append all edits of a row of so many drafts, whose sampled positions, one more, begin at `at`.
///
/// Drafts that are not known yet edit nothing: [`reads_drafts`] tells who may not have any.
pub fn push_edits(
    request: &Request,
    drafts: &[Draft],
    num_drafts: u32,
    at: u32,
    edits: &mut Vec<Edit>,
) {
    let sampling = &request.sampling;
    let len = num_drafts + 1;
    let mut everywhere = |token, change| edits.push(Edit { at, len, token, change });
    for &token in sampling.allowed.iter().flatten() {
        everywhere(token, Change::Allow);
    }
    for &(token, bias) in &sampling.bias {
        everywhere(token, Change::Add(bias));
    }
    if sampling.xtc.probability > 0.0 {
        sampling.xtc.spared.iter().for_each(|&token| everywhere(token, Change::Spare));
    }
    let missing = sampling.min_tokens.saturating_sub(request.num_generated()).min(len);
    if missing > 0 {
        let stops = request.stop_tokens.iter();
        edits.extend(stops.map(|&token| Edit { at, len: missing, token, change: BAN }));
    }
    if !sampling.banned.is_empty() {
        push_bans(request, drafts, at, edits);
    }
    if request.counts.is_some() {
        push_penalties(request, drafts, at, edits);
    }
}

/// Whether edits of the request's logits, or its grammar, depend on the drafts before them.
pub fn reads_drafts(request: &Request) -> bool {
    let sampling = &request.sampling;
    request.counts.is_some() || !sampling.banned.is_empty() || sampling.constraint != 0
}

const BAN: Change = Change::Add(f32::NEG_INFINITY);

/// Ban the last token of each banned sequence wherever the rest of it has just been generated.
fn push_bans(request: &Request, drafts: &[Draft], at: u32, edits: &mut Vec<Edit>) {
    let num_output = request.num_generated() as usize;
    let longest = request.sampling.banned.iter().map(Vec::len).max().unwrap_or(0);
    let known = &request.tokens[request.tokens.len() - num_output.min(longest)..];
    let context: Vec<u32> =
        known.iter().copied().chain(drafts.iter().map(|draft| draft.token)).collect();
    for position in 0..=drafts.len() {
        let before = &context[..known.len() + position];
        let at = at + position as u32;
        for sequence in &request.sampling.banned {
            if let Some((&token, rest)) = sequence.split_last()
                && before.ends_with(rest)
            {
                edits.push(Edit { at, len: 1, token, change: BAN });
            }
        }
    }
}

/// Penalise the tokens that occurred, drafts included from the position behind them on.
fn push_penalties(request: &Request, drafts: &[Draft], at: u32, edits: &mut Vec<Edit>) {
    let Some(counts) = &request.counts else {
        return;
    };
    let penalties = request.sampling.penalties;
    let (first, end) = (edits.len(), at + drafts.len() as u32 + 1);
    edits.extend(counts.entries().iter().map(|&(token, count)| Edit {
        at,
        len: end - at,
        token,
        change: penalize(penalties, count),
    }));
    // The edit in force of each drafted token, and its count.
    let mut open: FxHashMap<u32, (usize, u32)> = FxHashMap::default();
    for (drafted, draft) in drafts.iter().enumerate() {
        let known = || counts.position(draft.token).map(|at| (first + at, counts.entries()[at].1));
        let last = open.get(&draft.token).copied().or_else(known);
        let (begin, count) = (at + drafted as u32 + 1, last.map_or(0, |(_, count)| count) + 1);
        if let Some((before, _)) = last {
            edits[before].len = begin - edits[before].at;
        }
        open.insert(draft.token, (edits.len(), count));
        let change = penalize(penalties, count);
        edits.push(Edit { at: begin, len: end - begin, token: draft.token, change });
    }
}

fn penalize(penalties: Penalties, count: u32) -> Change {
    let presence = if count > 0 { penalties.presence } else { 0.0 };
    Change::Penalize {
        factor: penalties.repetition,
        subtract: presence + penalties.frequency * count as f32,
    }
}
