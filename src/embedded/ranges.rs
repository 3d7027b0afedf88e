//! How the space of hashes is shared out among the shards of a table.

/// First and last hash of a shard, both inclusive.
pub type Range = (i32, i32);

/// Even ranges that cover all of int4, in order; the last takes what division leaves over.
pub fn split(count: u32) -> Vec<Range> {
    let count = i64::from(count.max(1));
    let width = (1i64 << 32) / count;
    let first = |index: i64| i64::from(i32::MIN) + index * width;
    (0..count)
        .map(|index| {
            let last = if index == count - 1 { i64::from(i32::MAX) } else { first(index + 1) - 1 };
            // Both are within int4 by construction.
            (first(index) as i32, last as i32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::split;
    use proptest::prelude::*;

    #[test]
    fn four_shards_as_in_citus() {
        assert_eq!(
            split(4),
            [
                (-2147483648, -1073741825),
                (-1073741824, -1),
                (0, 1073741823),
                (1073741824, 2147483647),
            ]
        );
    }

    #[test]
    fn thirty_two_shards_begin_and_end_as_in_citus() {
        let ranges = split(32);
        assert_eq!(ranges[0], (-2147483648, -2013265921));
        assert_eq!(ranges[31], (2013265920, 2147483647));
    }

    proptest! {
        #[test]
        fn ranges_cover_everything_once(count in 1u32..5000) {
            let ranges = split(count);
            prop_assert_eq!(ranges.len(), count as usize);
            prop_assert_eq!(ranges[0].0, i32::MIN);
            prop_assert_eq!(ranges[ranges.len() - 1].1, i32::MAX);
            for pair in ranges.windows(2) {
                prop_assert_eq!(i64::from(pair[0].1) + 1, i64::from(pair[1].0));
            }
        }
    }
}
