//! Every path that source files name, and where it leads, as far as names can tell.
//!
//! **Invariant:** `use` trees, inline paths, the bodies of macros and the arguments of attributes
//! are all read; an alias or a glob import does not hide where a path leads.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    buffer::{Cursor, TokenBuffer},
    visit::{self, Visit},
};

/// How the binary names the library.
const OWN_CRATE: &str = "orchestrator_worker";
/// Aliases followed one after the other.
const LONGEST_CHAIN: usize = 8;

type Path = Vec<String>;

/// A file, by its path from the project's folder.
pub struct Source {
    pub file: String,
    pub text: String,
}

/// A path that stands in a source.
pub struct Named {
    pub file: String,
    /// The module in which it stands; empty in `lib.rs`.
    pub module: Path,
    /// As written, but for `use` trees, which are taken apart.
    pub text: String,
    pub target: Target,
}

pub enum Target {
    /// The innermost module on the path, and what it names in there. `*` is a glob.
    Crate { module: Path, rest: Path },
    /// Another crate or a local name; a macro without a path ends in `!`.
    External(Path),
}

/// All paths of `sources`, which together are a crate.
pub fn named(sources: &[Source]) -> Vec<Named> {
    let mut names = Names::default();
    let read: Vec<(&Source, Reader)> = sources
        .iter()
        .map(|source| {
            let module = module_of(&source.file);
            names.modules.insert(module.clone());
            let tree = syn::parse_file(&source.text)
                .unwrap_or_else(|error| panic!("{} cannot be parsed: {error}", source.file));
            let mut reader = Reader { module, ..Reader::default() };
            reader.visit_file(&tree);
            (source, reader)
        })
        .collect();
    for (_, reader) in &read {
        names.modules.extend(reader.modules.iter().cloned());
        names.aliases.extend(reader.aliases.iter().cloned());
        for (module, glob) in &reader.globs {
            names.globs.entry(module.clone()).or_default().push(glob.clone());
        }
    }
    read.into_iter()
        .flat_map(|(source, reader)| reader.paths.into_iter().map(move |path| (source, path)))
        .map(|(source, (module, path))| Named {
            file: source.file.clone(),
            text: path.join("::"),
            target: names.target(&module, &path),
            module,
        })
        .collect()
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`, `src/lib.rs` is the root.
fn module_of(file: &str) -> Path {
    let inside = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Path = inside.split('/').map(String::from).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// What names mean in each module.
#[derive(Default)]
struct Names {
    modules: BTreeSet<Path>,
    aliases: BTreeMap<(Path, String), Path>,
    globs: BTreeMap<Path, Vec<Path>>,
}

impl Names {
    fn target(&self, module: &[String], path: &[String]) -> Target {
        let resolved = self.resolve(module, path, LONGEST_CHAIN);
        let Some(full) = resolved else { return Target::External(path.to_vec()) };
        let Some(path) = full.strip_prefix(&[String::from("crate")]) else {
            return Target::External(full);
        };
        let inner = (0..=path.len()).rev().find(|n| self.modules.contains(&path[..*n]));
        let (module, rest) = path.split_at(inner.unwrap_or(0));
        Target::Crate { module: module.to_vec(), rest: rest.to_vec() }
    }

    /// From the crate's root (`crate`) or from another crate's name; `None` if aliases go round.
    fn resolve(&self, module: &[String], path: &[String], chain: usize) -> Option<Path> {
        let (first, rest) = path.split_first()?;
        let chain = chain.checked_sub(1)?;
        let absolute = |module: &[String], rest: &[String]| {
            Some([&[String::from("crate")], module, rest].concat())
        };
        match first.as_str() {
            "crate" | OWN_CRATE => return absolute(&[], rest),
            "self" => return absolute(module, rest),
            "super" => {
                let (_, parent) = module.split_last()?;
                let is_super_again = rest.first().is_some_and(|next| next == "super");
                return if is_super_again {
                    self.resolve(parent, rest, chain)
                } else {
                    absolute(parent, rest)
                };
            }
            _ => {}
        }
        if self.modules.contains(&[module, std::slice::from_ref(first)].concat()) {
            return absolute(module, path);
        }
        if let Some(meaning) = self.aliases.get(&(module.to_vec(), first.clone())) {
            return self.resolve(module, &[meaning, rest].concat(), chain);
        }
        let globbed = self.globs.get(module).into_iter().flatten().find_map(|glob| {
            let from = self.resolve(module, glob, chain)?;
            let inside = from.strip_prefix(&[String::from("crate")])?;
            let named = [inside, std::slice::from_ref(first)].concat();
            self.modules.contains(&named).then(|| [&from, path].concat())
        });
        Some(globbed.unwrap_or_else(|| path.to_vec()))
    }
}

/// Collects what one file names.
#[derive(Default)]
struct Reader {
    module: Path,
    modules: Vec<Path>,
    paths: Vec<(Path, Path)>,
    aliases: Vec<((Path, String), Path)>,
    globs: Vec<(Path, Path)>,
}

impl Reader {
    fn name(&mut self, path: Path) {
        self.paths.push((self.module.clone(), path));
    }

    fn read_use(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.read_use(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => {
                let own = before.last().expect("`self` stands in braces").clone();
                self.bring_in(own, before.to_vec());
            }
            syn::UseTree::Name(name) => self.bring_in(name.ident.to_string(), with(&name.ident)),
            syn::UseTree::Rename(rename) => {
                self.bring_in(rename.rename.to_string(), with(&rename.ident));
            }
            syn::UseTree::Glob(_) => {
                self.globs.push((self.module.clone(), before.to_vec()));
                self.name([before, &["*".into()]].concat());
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(before, tree);
                }
            }
        }
    }

    fn bring_in(&mut self, name: String, path: Path) {
        if path.len() > 1 || path[0] != name {
            self.aliases.push(((self.module.clone(), name), path.clone()));
        }
        self.name(path);
    }

    /// Paths among tokens that are no syntax tree yet.
    fn read_tokens(&mut self, mut at: Cursor) {
        while !at.eof() {
            if let Some((inside, _, _, after)) = at.any_group() {
                self.read_tokens(inside);
                at = after;
            } else if at.ident().is_some() {
                let (path, after) = path_at(at);
                if path.len() > 1 {
                    self.name(path);
                }
                at = after;
            } else {
                at = at.token_tree().expect("it is not the end").1;
            }
        }
    }
}

/// The longest `a::b::c` that begins at an identifier.
fn path_at(mut at: Cursor) -> (Path, Cursor) {
    let mut path = Path::new();
    while let Some((ident, after)) = at.ident() {
        path.push(ident.to_string());
        at = after;
        match colons(after) {
            Some(next) if next.ident().is_some() => at = next,
            _ => break,
        }
    }
    (path, at)
}

fn colons(at: Cursor) -> Option<Cursor> {
    let (first, after) = at.punct()?;
    let (second, after) = after.punct()?;
    (first.as_char() == ':' && second.as_char() == ':').then_some(after)
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        self.modules.push(self.module.clone());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.read_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.name(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        if let Some(name) = item.path.get_ident() {
            self.name(vec![format!("{name}!")]);
        }
        self.read_tokens(TokenBuffer::new2(item.tokens.clone()).begin());
        visit::visit_macro(self, item);
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.read_tokens(TokenBuffer::new2(list.tokens.clone()).begin());
        visit::visit_meta_list(self, list);
    }
}
