//! Integer types that hold codes.

use std::fmt::Debug;

use crate::{Error, QuantRange, Result};

mod sealed {
    pub trait Sealed {}
}

/// An integer type that can hold codes: `u8` and `i8` for storage and kernels, `i16` and `i32` where any
/// range must fit. Sealed.
pub trait Code: sealed::Sealed + Copy + Debug + Default + PartialEq + Send + Sync + 'static {
    /// Name of the type in messages.
    const NAME: &'static str;
    /// Lowest value.
    const MIN: i32;
    /// Highest value.
    const MAX: i32;

    /// The code as an `i32`.
    fn widen(self) -> i32;

    /// Takes the low bits of `code`, which is exact for a code within `[MIN, MAX]`.
    fn narrow(code: i32) -> Self;
}

macro_rules! code {
    ($($name:ident),*) => {$(
        impl sealed::Sealed for $name {}

        impl Code for $name {
            const NAME: &'static str = stringify!($name);
            const MIN: i32 = $name::MIN as i32;
            const MAX: i32 = $name::MAX as i32;

            #[inline(always)]
            fn widen(self) -> i32 {
                self as i32
            }

            #[inline(always)]
            fn narrow(code: i32) -> Self {
                code as $name
            }
        }
    )*};
}

code!(u8, i8, i16, i32);

/// Rejects a range whose codes do not fit `C`.
pub(crate) fn check_holds<C: Code>(range: QuantRange) -> Result<()> {
    if range.quant_min() < C::MIN || range.quant_max() > C::MAX {
        return Err(Error::Parameter {
            what: "code type",
            detail: format!("{} does not hold [{}, {}]", C::NAME, range.quant_min(), range.quant_max()),
        });
    }
    Ok(())
}
