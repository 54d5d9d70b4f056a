//! Labels whose values are known: enumerations, alone or several together.

use crate::LabelDeclaration;

/// An enumeration that is the values of a label.
pub trait LabelValue: Copy + Send + Sync + 'static {
    /// The label.
    const DECLARATION: LabelDeclaration;
    /// Its values, in order.
    const VALUES: &'static [&'static str];

    /// Its place among the values.
    fn position(self) -> usize;

    /// The value.
    fn text(self) -> &'static str {
        Self::VALUES.get(self.position()).copied().unwrap_or_default()
    }
}

/// All labels of a family; each set of values has a number.
pub trait LabelSet: Copy + Send + Sync + 'static {
    /// The labels.
    const LABELS: &'static [LabelDeclaration];
    /// How many sets of values there are.
    const COUNT: usize;

    /// The number of this set.
    fn index(self) -> usize;

    /// The values of the set with this number, in the order of the labels.
    fn values(index: usize) -> Vec<&'static str>;
}

impl LabelSet for () {
    const LABELS: &'static [LabelDeclaration] = &[];
    const COUNT: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn values(_: usize) -> Vec<&'static str> {
        Vec::new()
    }
}

impl<A: LabelValue, B: LabelValue> LabelSet for (A, B) {
    const LABELS: &'static [LabelDeclaration] = &[A::DECLARATION, B::DECLARATION];
    const COUNT: usize = A::VALUES.len() * B::VALUES.len();

    fn index(self) -> usize {
        self.0.position() * B::VALUES.len() + self.1.position()
    }

    fn values(index: usize) -> Vec<&'static str> {
        let (first, second) = (index / B::VALUES.len(), index % B::VALUES.len());
        A::VALUES.get(first).into_iter().chain(B::VALUES.get(second)).copied().collect()
    }
}

/// Defines an enumeration that is the values of a label.
macro_rules! label_values {
    ($($(#[$about:meta])* $name:ident $label:literal { $($value:ident = $text:literal,)* })*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] $value,)*
        }

        impl $crate::LabelValue for $name {
            const DECLARATION: $crate::LabelDeclaration = $crate::LabelDeclaration::fixed($label, Self::VALUES);
            const VALUES: &'static [&'static str] = &[$($text),*];

            fn position(self) -> usize {
                self as usize
            }
        }

        impl $crate::LabelSet for $name {
            const LABELS: &'static [$crate::LabelDeclaration] = &[<Self as $crate::LabelValue>::DECLARATION];
            const COUNT: usize = <Self as $crate::LabelValue>::VALUES.len();

            fn index(self) -> usize {
                self as usize
            }

            fn values(index: usize) -> Vec<&'static str> {
                <Self as $crate::LabelValue>::VALUES.get(index).copied().into_iter().collect()
            }
        }
    )*};
}

pub(crate) use label_values;
