//! KV rows that know which of their positions mean something.

use super::script::{FIRST_NAME, PADDING, Seen};

/// Rows of one allocation.
#[derive(Debug)]
pub(crate) struct Slab {
    rows: Vec<SimRow>,
}

impl Slab {
    pub(crate) fn new(slots: u32, capacity: u32) -> Self {
        Self { rows: (0..slots).map(|_| SimRow::new(capacity)).collect() }
    }

    pub(crate) fn slots(&self) -> u32 {
        self.rows.len() as u32
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.rows[0].capacity()
    }

    pub(crate) fn row(&mut self, slot: u32) -> &mut SimRow {
        &mut self.rows[slot as usize]
    }

    pub(crate) fn scramble(&mut self) {
        for row in &mut self.rows {
            row.clear();
        }
    }
}

/// One row. `None` is junk: padding, a rejected draft, what an earlier owner left.
#[derive(Debug)]
pub(crate) struct SimRow {
    cells: Vec<Option<Seen>>,
    /// Positions from the start that are the owner's for good.
    valid: u32,
    /// End of what this step wrote for the owner; `valid` between steps.
    end: u32,
}

impl SimRow {
    fn new(capacity: u32) -> Self {
        Self { cells: vec![None; capacity as usize], valid: 0, end: 0 }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.cells.len() as u32
    }

    pub(crate) fn valid(&self) -> u32 {
        self.valid
    }

    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    fn clear(&mut self) {
        self.cells.fill(None);
        (self.valid, self.end) = (0, 0);
    }

    /// The last name in these first tokens: those before it are of whom the row shares a beginning
    /// with.
    pub(crate) fn owner(&self, num_tokens: u32) -> u32 {
        let known = self.cells[..num_tokens as usize].iter().flatten().map(|cell| cell.token);
        let mut names = known.filter(|&token| token >= FIRST_NAME);
        names.next_back().unwrap_or_else(|| panic!("the row has no owner"))
    }

    pub(crate) fn token(&self, position: u32) -> Option<u32> {
        self.cells[position as usize].map(|cell| cell.token)
    }

    /// A copy of the first positions, to be put in another row with [`Self::paste`].
    pub(crate) fn head(&self, num_tokens: u32) -> Vec<Option<Seen>> {
        assert!(num_tokens <= self.valid, "a copy takes what the row does not hold");
        self.cells[..num_tokens as usize].to_vec()
    }

    /// A copy of `len` positions from `start` on.
    pub(crate) fn piece(&self, start: u32, len: u32) -> Vec<Seen> {
        assert!(start + len <= self.valid, "a piece takes what the row does not hold");
        self.read(start + len - 1).split_off(start as usize)
    }

    /// Take over a piece, of which the first positions are here already.
    pub(crate) fn fill(&mut self, start: u32, known: u32, piece: &[Seen]) {
        if start + known == 0 {
            self.clear();
        }
        self.keep(start + known);
        let place = &mut self.cells[start as usize..start as usize + piece.len()];
        let both = place.iter().zip(piece).take(known as usize);
        both.for_each(|(old, new)| assert_eq!(*old, Some(*new), "another beginning"));
        place.iter_mut().zip(piece).for_each(|(old, new)| *old = Some(*new));
        let end = start + piece.len() as u32;
        (self.valid, self.end) = (end, end);
    }

    /// Take over a copy.
    pub(crate) fn paste(&mut self, head: &[Option<Seen>]) {
        self.clear();
        self.cells[..head.len()].copy_from_slice(head);
        (self.valid, self.end) = (head.len() as u32, head.len() as u32);
    }

    /// Write neighbouring positions: the owner's next tokens, padding, or the one and then the
    /// other. Position 0 starts a new owner, or fills a row that has none. A new owner may also run
    /// on from part of what an earlier one left.
    pub(crate) fn write(&mut self, start: u32, tokens: &[u32]) {
        if start == 0 {
            self.clear();
            assert!(tokens[0] == PADDING || tokens[0] >= FIRST_NAME, "a prompt starts midway");
        }
        let known = tokens.iter().take_while(|&&token| token != PADDING).count();
        if start < self.valid {
            self.keep(start);
        }
        assert!(known == 0 || start == self.end, "{start} does not follow {}", self.end);
        assert!(tokens[known..].iter().all(|&it| it == PADDING), "tokens behind padding");
        for (position, &token) in (start as usize..).zip(tokens) {
            let before = position.checked_sub(1).and_then(|at| self.cells[at]);
            let follows = token != PADDING && (position == 0 || before.is_some());
            self.cells[position] = follows.then(|| Seen::after(before, token));
        }
        if known > 0 {
            self.end = self.end.max(start + known as u32);
        }
    }

    /// All positions up to this one, as attention sees them.
    pub(crate) fn read(&self, position: u32) -> Vec<Seen> {
        let mut before = None;
        let cells = self.cells[..=position as usize].iter().enumerate();
        cells
            .map(|(at, cell)| {
                let cell = cell.unwrap_or_else(|| panic!("position {at} is read and is junk"));
                assert_eq!(cell, Seen::after(before, cell.token), "position {at} is stale");
                before = Some(cell);
                cell
            })
            .collect()
    }

    /// Fails unless the row starts with exactly these tokens, all of them written in order.
    pub(crate) fn assert_holds(&self, tokens: &[u32]) {
        let seen: Vec<u32> = self.read(tokens.len() as u32 - 1).iter().map(|it| it.token).collect();
        assert_eq!(seen, tokens, "the row holds other tokens than its request");
    }

    /// The first positions stay, all others are junk.
    pub(crate) fn keep(&mut self, num_tokens: u32) {
        self.cells[num_tokens as usize..].fill(None);
        (self.valid, self.end) = (num_tokens, num_tokens);
    }

    /// End of what was written and is not yet valid.
    pub(crate) fn unsettled(&self) -> Option<u32> {
        (self.end > self.valid).then_some(self.end)
    }
}
