//! The context of a trace (W3C Trace Context, level 1): which trace, which span of it, and whether it is sampled.

use std::fmt;

use data_encoding::HEXLOWER;

/// Length of `traceparent` of version 00 in bytes.
const LENGTH_BYTES: usize = 55;
/// The flag that says that the trace is sampled.
const SAMPLED: u8 = 1;

/// Names a span of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    is_sampled: bool,
}

impl TraceContext {
    /// A trace of its own. Its ids are random and never all zero.
    pub fn new_root(is_sampled: bool) -> Self {
        // Version and variant are not needed here, and one bit that is set makes an id that is not zero.
        let trace_id = (rand::random::<u128>() | 1 << 127).to_be_bytes();
        Self { trace_id, span_id: new_span_id(), is_sampled }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn new_child(self) -> Self {
        Self { span_id: new_span_id(), ..self }
    }

    /// The same span, sampled or not.
    #[must_use]
    pub const fn with_sampling(self, is_sampled: bool) -> Self {
        Self { is_sampled, ..self }
    }

    /// Reads `traceparent`. `None` for what is malformed: a reader begins a trace of its own, then (W3C Trace Context, 4.3).
    pub fn parse(text: &str) -> Option<Self> {
        let (text, rest) = text.split_at_checked(LENGTH_BYTES)?;
        let mut fields = text.split('-');
        let mut next = |length: usize| fields.next().filter(|field| field.len() == length);
        let [version] = decode::<1>(next(2)?)?;
        // A later version may have more behind another dash, and 255 is none.
        let is_ended = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        let (trace_id, span_id) = (decode::<16>(next(32)?)?, decode::<8>(next(16)?)?);
        let [flags] = decode::<1>(next(2)?)?;
        let is_valid = is_ended && version != 0xff && trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self { trace_id, span_id, is_sampled: flags & SAMPLED != 0 })
    }

    /// The trace, 16 bytes.
    pub const fn trace_id(&self) -> &[u8; 16] {
        &self.trace_id
    }

    /// The span, 8 bytes.
    pub const fn span_id(&self) -> &[u8; 8] {
        &self.span_id
    }

    /// True when spans of this trace are kept.
    pub const fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// The trace as 32 digits.
    pub fn trace_id_text(&self) -> String {
        HEXLOWER.encode(&self.trace_id)
    }

    /// The span as 16 digits.
    pub fn span_id_text(&self) -> String {
        HEXLOWER.encode(&self.span_id)
    }

    /// True for spans of one trace.
    pub fn is_same_trace(&self, other: &Self) -> bool {
        self.trace_id == other.trace_id
    }

    /// Whether the trace is among this share of all, from 0 to 1: by the last 56 bits of its id, which are random (W3C Trace Context,
    /// level 2, 3.2.2.3.2), so that every process decides alike. Not for an id that a client can choose.
    pub fn is_in_ratio(&self, ratio: f64) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&self.trace_id[8..]);
        let random = u64::from_be_bytes(low) & ((1 << 56) - 1);
        // 2^56 has an exact form, and so has each number of 53 bits.
        (random as f64) < ratio * 72_057_594_037_927_936.0
    }
}

/// `traceparent` of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = if self.is_sampled { SAMPLED } else { 0 };
        write!(f, "00-{}-{}-{flags:02x}", self.trace_id_text(), self.span_id_text())
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn new_span_id() -> [u8; 8] {
    loop {
        let id = rand::random::<[u8; 8]>();
        if id != [0; 8] {
            return id;
        }
    }
}

/// Lower-case digits alone: others are malformed.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_malformed_is_no_context() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-0f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_context_is_read_as_it_was_written() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert!(context.is_sampled());
        let later =
            TraceContext::parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe-more").unwrap();
        assert!(later.is_same_trace(&context) && !later.is_sampled());
        for is_sampled in [true, false] {
            let root = TraceContext::new_root(is_sampled);
            assert_eq!(TraceContext::parse(&root.to_string()), Some(root));
            assert_ne!(root.new_child().span_id(), root.span_id());
        }
    }

    #[test]
    fn a_share_of_traces_is_sampled() {
        let roots: Vec<_> = (0..20_000).map(|_| TraceContext::new_root(true)).collect();
        for (ratio, wanted) in [(0.0, 0..=0), (0.1, 1_800..=2_200), (1.0, 20_000..=20_000)] {
            let count = roots.iter().filter(|root| root.is_in_ratio(ratio)).count();
            assert!(wanted.contains(&count), "{count} of {ratio}");
        }
    }

    proptest! {
        #[test]
        fn no_text_of_a_client_breaks_the_reader(text in ".{0,80}") {
            if let Some(context) = TraceContext::parse(&text) {
                prop_assert!(TraceContext::parse(&context.to_string()).is_some());
            }
        }
    }
}
