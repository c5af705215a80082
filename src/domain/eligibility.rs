//! Which pending executions a worker may claim: templates that are let in or kept out by name,
//! templates that are paused or busy, and the backlog.
//!
//! **Invariant:** what is kept out by any rule is kept out; no rule ever lets in what another keeps
//! out.

use std::collections::BTreeSet;

use super::{
    deferral::Deferral,
    id::{LockKey, TemplateId},
};

/// In the column of a pause: every template.
pub const ALL_TEMPLATES: &str = "*";

/// What a worker is set to claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eligibility {
    /// Names of templates; no others are claimed if there are any.
    pub include: BTreeSet<String>,
    /// Names of templates that are not claimed.
    pub exclude: BTreeSet<String>,
    pub backlog: Backlog,
    /// An execution is claimed together with the lock of its template, so that a template has one
    /// at a time.
    pub one_per_template: bool,
}

/// What becomes of rows that were a day old already when the tables were first migrated: nobody
/// wants last year's deploy script to run because a worker was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backlog {
    /// They wait until somebody releases them.
    #[default]
    Hold,
    /// They are claimed like all others.
    Run,
}

/// Templates whose executions may be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Templates {
    /// All but these, and executions that name no template too.
    AllBut(BTreeSet<TemplateId>),
    /// None but these.
    Only(BTreeSet<TemplateId>),
}

impl Eligibility {
    /// Every name whose template's id has to be known.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.include.iter().chain(&self.exclude).map(String::as_str)
    }

    /// The lock that an execution of this template needs beside its own.
    pub fn template_key(&self, template: Option<&TemplateId>) -> Option<LockKey> {
        template.filter(|_| self.one_per_template).map(LockKey::of_template)
    }

    /// Whether an execution may be claimed together with those of `taken` that were asked about
    /// before it: where a template has one at a time, it is the first of its template.
    pub fn goes_with(
        &self,
        taken: &mut BTreeSet<TemplateId>,
        template: Option<&TemplateId>,
    ) -> bool {
        let template = template.filter(|_| self.one_per_template);
        template.is_none_or(|template| taken.insert(template.clone()))
    }

    /// Gives an execution the lock of its template out of those that were won: whoever asks first
    /// gets it. Returns what it holds then, and why it cannot be claimed without.
    pub fn give_template(
        &self,
        template: Option<&TemplateId>,
        won: &mut BTreeSet<LockKey>,
    ) -> (Option<TemplateId>, Option<Deferral>) {
        match self.template_key(template) {
            None => (None, None),
            Some(key) if won.remove(&key) => (template.cloned(), None),
            Some(_) => (None, Some(Deferral::TemplateBusy)),
        }
    }

    /// `named` are the templates that have one of [`Eligibility::names`]; `paused` are template ids,
    /// or [`ALL_TEMPLATES`].
    pub fn templates(
        &self,
        named: &[(TemplateId, String)],
        paused: &BTreeSet<TemplateId>,
    ) -> Templates {
        let of = |names: &BTreeSet<String>| -> BTreeSet<TemplateId> {
            named
                .iter()
                .filter(|(_, name)| names.contains(name))
                .map(|(id, _)| id.clone())
                .collect()
        };
        if paused.contains(&TemplateId::from(ALL_TEMPLATES)) {
            return Templates::Only(BTreeSet::new());
        }
        let out: BTreeSet<TemplateId> = of(&self.exclude).union(paused).cloned().collect();
        if self.include.is_empty() {
            return Templates::AllBut(out);
        }
        Templates::Only(of(&self.include).difference(&out).cloned().collect())
    }
}

impl Templates {
    /// Nothing is kept out.
    pub fn is_everything(&self) -> bool {
        match self {
            Self::AllBut(out) => out.is_empty(),
            Self::Only(_) => false,
        }
    }

    /// Nothing is let in.
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::AllBut(_) => false,
            Self::Only(only) => only.is_empty(),
        }
    }

    /// Keeps these out too.
    pub fn keep_out(&mut self, out: &BTreeSet<TemplateId>) {
        match self {
            Self::AllBut(all) => all.extend(out.iter().cloned()),
            Self::Only(only) => only.retain(|id| !out.contains(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn ids(ids: &[&str]) -> BTreeSet<TemplateId> {
        ids.iter().map(|id| TemplateId::from(*id)).collect()
    }

    #[test]
    fn a_template_that_was_won_goes_to_the_execution_that_comes_first() {
        let [one, two] = [1, 2].map(|id: u8| TemplateId::from(id.to_string()));
        let mut won = BTreeSet::from([LockKey::of_template(&one)]);
        let set = Eligibility { one_per_template: true, ..Eligibility::default() };
        assert_eq!(set.give_template(None, &mut won), (None, None));
        assert_eq!(set.give_template(Some(&one), &mut won), (Some(one.clone()), None));
        for id in [&one, &two] {
            let busy = (None, Some(Deferral::TemplateBusy));
            assert_eq!(set.give_template(Some(id), &mut won), busy, "{id}");
        }
        let unset = Eligibility::default();
        assert_eq!(unset.give_template(Some(&two), &mut won), (None, None));
    }

    #[test]
    fn of_each_template_one_goes_with_others_where_each_is_to_have_one_at_a_time() {
        let [one, two] = [1, 2].map(|id: u8| TemplateId::from(id.to_string()));
        let asked = [Some(&one), None, Some(&two), Some(&one), None];
        let go = |one_per_template| {
            let (set, mut taken) =
                (Eligibility { one_per_template, ..Eligibility::default() }, BTreeSet::new());
            (asked.map(|template| set.goes_with(&mut taken, template)), taken)
        };
        assert_eq!(go(true), ([true, true, true, false, true], ids(&["1", "2"])));
        assert_eq!(go(false), ([true; 5], ids(&[])));
    }

    #[test]
    fn what_is_kept_out_later_is_out() {
        let out = ids(&["1", "3"]);
        for (mut templates, expected) in [
            (Templates::AllBut(ids(&["2"])), Templates::AllBut(ids(&["1", "2", "3"]))),
            (Templates::Only(ids(&["1", "2"])), Templates::Only(ids(&["2"]))),
            (Templates::Only(ids(&["1"])), Templates::Only(ids(&[]))),
        ] {
            templates.keep_out(&out);
            assert_eq!(templates, expected);
            assert_eq!(templates.is_nothing(), expected == Templates::Only(ids(&[])));
        }
    }

    #[test]
    fn what_any_rule_keeps_out_is_out() {
        let named = [
            (TemplateId::from("1"), "deploy".to_owned()),
            (TemplateId::from("2"), "deploy".to_owned()),
            (TemplateId::from("3"), "report".to_owned()),
        ];
        let all_but = |out: &[&str]| Templates::AllBut(ids(out));
        let only = |ids_in: &[&str]| Templates::Only(ids(ids_in));
        for (include, exclude, paused, expected) in [
            (&[][..], &[][..], &[][..], all_but(&[])),
            (&[], &[], &["9"], all_but(&["9"])),
            (&[], &["deploy"], &["3"], all_but(&["1", "2", "3"])),
            (&["deploy"], &[], &[], only(&["1", "2"])),
            (&["deploy", "report"], &["report"], &["2"], only(&["1"])),
            (&["no such"], &[], &[], only(&[])),
            (&[], &[], &["*"], only(&[])),
            (&["deploy"], &[], &["*", "3"], only(&[])),
        ] {
            let eligibility = Eligibility {
                include: names(include),
                exclude: names(exclude),
                ..Eligibility::default()
            };
            let templates = eligibility.templates(&named, &ids(paused));
            assert_eq!(templates, expected, "{include:?} {exclude:?} {paused:?}");
            assert_eq!(templates.is_everything(), expected == all_but(&[]));
        }
    }
}
