//! Panics as texts. While a target runs, its panics are kept instead of printed: shortening an input makes thousands.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// The first panic on this thread while a target runs on it. Also one that somebody else caught, as tokio does
    /// with those of tasks.
    static KEPT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// What the work gives; else what its panic said, and where.
pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !keep(panic) {
                usual(panic);
            }
        }));
    });
    KEPT.set(Some(Vec::new()));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let kept = KEPT.take().unwrap_or_default();
    match (outcome, kept.into_iter().next()) {
        (Ok(value), None) => Ok(value),
        (_, message) => Err(message.unwrap_or_default()),
    }
}

fn keep(panic: &PanicHookInfo<'_>) -> bool {
    KEPT.with_borrow_mut(|kept| {
        let Some(kept) = kept else { return false };
        kept.push(panic.to_string());
        true
    })
}
