//! Positions in the WAL.

/// A WAL position as a number.
pub fn number(lsn: &str) -> Option<u64> {
    let (high, low) = lsn.split_once('/')?;
    let part =
        |text: &str| u64::from_str_radix(text, 16).ok().filter(|part| *part <= u64::from(u32::MAX));
    Some(part(high)? << 32 | part(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_compared_as_numbers() {
        assert!(number("1/0") > number("0/FFFFFFFF"));
        assert!(number("0/A000000") < number("0/10000000"));
        for text in ["", "0", "x/0", "0/100000000"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
