//! Evaluation does not allocate: counted, not believed.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use calico_selector::interned::Interner;
use calico_selector::labels::{Inherited, Labels};
use calico_selector::{MatchIndex, Selector};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed to the system allocator unchanged; counting touches only a thread-local integer that
// needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(run: impl FnOnce()) -> usize {
    let before = COUNT.with(Cell::get);
    run();
    COUNT.with(Cell::get) - before
}

#[test]
fn matching_does_not_allocate() {
    assert!(allocations(|| drop(Box::new(7))) > 0, "the counter counts");
    let selector = Selector::parse(
        "role in {'a','b','c'} && !(env == 'x' || zone starts with 'y') && has(pcns.team) && name not in {'q'} \
         && name contains 'm' && name ends with 'e'",
    )
    .unwrap();
    let own = BTreeMap::from([("role".to_string(), "b".to_string()), ("name".to_string(), "me".to_string())]);
    let profile = [("pcns.team", "t"), ("zone", "z")];
    let parents: [(&str, &dyn Labels); 1] = [("kns.x", &profile)];
    let labels = Inherited::new(&own, &parents);
    let mut matched = 0;
    let count = allocations(|| {
        for _ in 0..1000 {
            matched += usize::from(selector.matches(&labels));
        }
    });
    assert_eq!((matched, count), (1000, 0));

    let mut texts = Interner::new();
    let compiled = texts.selector(&selector);
    let (own, profile) = (texts.labels(&own), texts.labels(profile));
    let mut matched = 0;
    let count = allocations(|| {
        for _ in 0..1000 {
            matched += usize::from(compiled.matches_inherited(&own, &[&profile], &texts));
            matched += usize::from(compiled.matches(&own, &texts));
        }
    });
    assert_eq!((matched, count), (1000, 0));
}

#[test]
fn an_index_at_rest_does_not_allocate_when_nothing_changes_hands() {
    let mut index: MatchIndex<u32, u32, u32> = MatchIndex::new();
    for number in 0..100 {
        let selector = Selector::parse(&format!("role == 'r{number}'")).unwrap();
        index.set_selector(&number, &selector, |_, _, _| {});
    }
    index.set_item(&1, [("role", "r7")], &[], |_, _, _| {});
    let count = allocations(|| assert!(index.matches(&7, &1) && !index.matches(&8, &1)));
    assert_eq!(count, 0);
}
