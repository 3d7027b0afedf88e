//! Text of bounded size for shared memory.

/// At most `N` bytes of UTF-8, cut on a character boundary.  All zeroes is the empty text.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Text<const N: usize> {
    len: u32,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; N] };

    /// As much of `text` as fits, ending with a whole character.
    pub fn new(text: &str) -> Self {
        let mut this = Self::EMPTY;
        let mut end = text.len().min(N);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        this.bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        this.len = end as u32;
        this
    }

    /// The text.  Only `new` writes it, so the fallback is never seen; it keeps a torn read harmless.
    pub fn as_str(&self) -> &str {
        let end = (self.len as usize).min(N);
        std::str::from_utf8(&self.bytes[..end]).unwrap_or("")
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `None` for the empty text.
    pub fn non_empty(&self) -> Option<&str> {
        (!self.is_empty()).then(|| self.as_str())
    }
}

impl<const N: usize> std::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Text;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_the_longest_whole_prefix(text in "\\PC{0,40}") {
            let cut = Text::<16>::new(&text);
            prop_assert!(text.starts_with(cut.as_str()));
            let next = text[cut.as_str().len()..].chars().next();
            let full = next.is_none_or(|c| cut.as_str().len() + c.len_utf8() > 16);
            prop_assert!(full, "{:?} of {:?} could be longer", cut, text);
        }
    }
}
