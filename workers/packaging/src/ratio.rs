//! Whole numbers by ratios, without overflow and without floating point.

use schemas::media::Rational;

/// `value * num / den`, rounded down, by way of 128 bits.
pub(crate) fn scale_floor(value: u64, num: u64, den: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(num) / u128::from(den.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// `value * num / den`, rounded to the nearest.
pub(crate) fn scale_rounded(value: u64, num: u64, den: u64) -> u64 {
    let den = u128::from(den.max(1));
    let scaled = (2 * u128::from(value) * u128::from(num) + den) / (2 * den);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// A ratio in lowest terms.
pub(crate) fn reduce_ratio(num: u64, den: u64) -> Rational {
    let (mut a, mut b) = (num, den);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let divisor = a.max(1);
    let term = |value: u64| u32::try_from(value / divisor).unwrap_or(u32::MAX).max(1);
    Rational { num: term(num), den: term(den) }
}
