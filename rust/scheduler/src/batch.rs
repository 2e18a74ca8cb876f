//! What runs in the next step: decode rows all, prefill in chunks with what budget is left.

use crate::action::PlannedRow;
use crate::config::ModelShape;
use crate::request::Request;

/// Choose how many known tokens of each running request the next step computes.
///
/// Every decoding row takes part. Prefill shares what is left, in order of their turn: a whole step's
/// tokens when nothing decodes, one chunk of `prefill_chunk` when something does, so that a long
/// prompt never stalls the others for more than a chunk. Who follows another's prompt waits, and so does
/// who has it on disk. Where prompts cannot be cut, one that does not fit waits for the next step.
pub fn form_batch(running: &[Request], shape: &ModelShape, prefill_chunk: u32) -> Vec<PlannedRow> {
    let num_decoding = running.iter().filter(|request| request.is_decoding()).count() as u32;
    let left = shape.step_tokens.saturating_sub(num_decoding);
    let mut prefill = if num_decoding > 0 { left.min(prefill_chunk) } else { left }.max(1);
    let mut rows = Vec::with_capacity(running.len());
    for (index, request) in running.iter().enumerate() {
        let pending = request.num_pending();
        let num_new = if pending == 1 { 1 } else { pending.min(prefill) };
        let is_cut = shape.whole && num_new < pending;
        if num_new == 0 || is_cut || request.stands_still() {
            continue;
        }
        if pending > 1 {
            prefill -= num_new;
        }
        rows.push(PlannedRow {
            request: request.id,
            index,
            num_new,
            samples: num_new == pending && request.generates(),
            drafts: Vec::new(),
            num_read: 0,
            num_unwritten: 0,
        });
    }
    rows
}
