//! Panics of dependencies that are caught and reported as errors.

use std::cell::Cell;
use std::panic::{UnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::thread;

thread_local! {
    /// `true` while a caught panic of this thread must not be printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Calls `call` and catches its panic, without the message and the backtrace that a panic prints.
///
/// The first call puts a panic hook in front of the one of the program, which still gets all other panics.
pub(super) fn quietly<T>(call: impl FnOnce() -> T + UnwindSafe) -> thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            // A thread that is ending has no value any more.
            if !QUIET.try_with(Cell::get).unwrap_or(false) {
                others(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(call);
    QUIET.set(before);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_the_thread_is_loud_again() {
        assert_eq!(quietly(|| 1).unwrap(), 1);
        assert!(quietly(|| panic!("caught")).is_err());
        assert!(!QUIET.get());
    }
}
