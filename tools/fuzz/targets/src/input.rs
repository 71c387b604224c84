//! Values out of a fuzz input: it is read from the front, and gives zeros and empty slices once it is used up.

pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let given = self.bytes(N);
        out[..given.len()].copy_from_slice(given);
        out
    }

    /// Up to `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (given, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        given
    }

    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Any bits, infinities and NaN as well.
    pub fn f32(&mut self) -> f32 {
        f32::from_le_bytes(self.array())
    }

    /// A number below `limit`, of two bytes.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.u16()) % limit.max(1)
    }

    /// What is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Up to the next byte 0xff, which no UTF-8 has; it is taken away.
    pub fn piece(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == 0xff).unwrap_or(self.0.len());
        let piece = self.bytes(end);
        self.bytes(1);
        piece
    }

    /// [`Self::piece`] as text.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.piece()).into_owned()
    }

    /// A value from -2 to 2 in steps of 1/64, of one byte.
    pub fn weight(&mut self) -> f32 {
        f32::from(self.byte() as i8) / 64.0
    }
}
