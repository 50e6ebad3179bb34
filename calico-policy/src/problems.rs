//! The list of inputs that are enforced in their fail-closed form.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::changes::Problem;
use crate::rules::BadField;

/// Problems by object.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    by_object: BTreeMap<String, Vec<BadField>>,
    sent: Option<Arc<[Problem]>>,
    touched: bool,
}

impl Problems {
    /// Replaces the problems of an object.
    pub(crate) fn set(&mut self, object: &str, mut problems: Vec<BadField>) {
        problems.sort();
        problems.dedup();
        if problems.is_empty() {
            self.touched |= self.by_object.remove(object).is_some();
        } else if self.by_object.get(object) != Some(&problems) {
            self.by_object.insert(object.to_owned(), problems);
            self.touched = true;
        }
    }

    /// Replaces the problems of all objects whose name begins with `prefix`.
    pub(crate) fn set_class(
        &mut self,
        prefix: &str,
        problems: impl Iterator<Item = (String, Vec<BadField>)>,
    ) {
        let old: Vec<String> =
            self.by_object.keys().filter(|object| object.starts_with(prefix)).cloned().collect();
        for object in old {
            self.set(&object, Vec::new());
        }
        for (name, list) in problems {
            self.set(&format!("{prefix}{name}"), list);
        }
    }

    /// The whole list when it changed since the last flush.
    pub(crate) fn flush(&mut self) -> Option<Arc<[Problem]>> {
        if !std::mem::take(&mut self.touched) {
            return None;
        }
        let list: Arc<[Problem]> = self
            .by_object
            .iter()
            .flat_map(|(object, fields)| {
                let object: Arc<str> = object.as_str().into();
                fields.iter().map(move |bad| Problem {
                    object: object.clone(),
                    field: bad.field.clone(),
                    reason: bad.reason.clone(),
                })
            })
            .collect();
        let before = self.sent.as_deref().unwrap_or_default();
        if *before == *list {
            return None;
        }
        self.sent = Some(list.clone());
        Some(list)
    }
}
