//! The fields of a type as the derive macro sees them.

use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, Field, Fields, Ident, LitStr, Path, Type};

/// A field that may hold linears.
pub(crate) struct Visited<'a> {
    /// Position among all fields of its struct or variant.
    pub(crate) index: usize,
    pub(crate) ident: Option<&'a Ident>,
    /// Component of the path; empty for the only field of a tuple variant, which has the variant's name.
    pub(crate) name: String,
    pub(crate) ty: &'a Type,
    /// True if its type mentions a type parameter; only a trait bound can then find its layers.
    pub(crate) generic: bool,
}

/// The fields that are not skipped.
pub(crate) fn visited<'a>(fields: &'a Fields, parameters: &[&Ident]) -> syn::Result<Vec<Visited<'a>>> {
    let mut visited = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let options = FieldOptions::of(field)?;
        if options.skip || mentions(&field.ty, &|ident| ident == "PhantomData") {
            continue;
        }
        let name = match (options.rename, &field.ident) {
            (Some(name), _) => name,
            (None, Some(ident)) => ident.to_string().trim_start_matches("r#").to_owned(),
            (None, None) => index.to_string(),
        };
        let generic = mentions(&field.ty, &|ident| parameters.contains(&ident));
        visited.push(Visited { index, ident: field.ident.as_ref(), name, ty: &field.ty, generic });
    }
    Ok(visited)
}

/// Path of the crate that contains `slm_nn`, from the type's attributes.
pub(crate) fn crate_path(attributes: &[Attribute]) -> syn::Result<Option<Path>> {
    let mut path = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("linears")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("crate") {
                path = Some(meta.value()?.parse()?);
                return Ok(());
            }
            Err(meta.error("expected `crate = path`"))
        })?;
    }
    Ok(path)
}

#[derive(Default)]
struct FieldOptions {
    skip: bool,
    rename: Option<String>,
}

impl FieldOptions {
    fn of(field: &Field) -> syn::Result<Self> {
        let mut options = Self::default();
        for attribute in &field.attrs {
            if attribute.path().is_ident("linears") {
                attribute.parse_nested_meta(|meta| {
                    if meta.path.is_ident("skip") {
                        options.skip = true;
                        return Ok(());
                    }
                    if meta.path.is_ident("rename") {
                        let name: LitStr = meta.value()?.parse()?;
                        if name.value().is_empty() {
                            return Err(syn::Error::new(name.span(), "a name cannot be empty"));
                        }
                        options.rename = Some(name.value());
                        return Ok(());
                    }
                    Err(meta.error("expected `skip` or `rename = \"name\"`"))
                })?;
            } else if attribute.path().is_ident("module") {
                // Burn's attribute, which may have arguments that this macro does not know.
                let tokens =
                    attribute.meta.require_list().map(|list| list.tokens.clone()).unwrap_or_default();
                options.skip |= any_ident(tokens, &|ident| ident == "skip");
            }
        }
        Ok(options)
    }
}

fn mentions(ty: &Type, wanted: &dyn Fn(&Ident) -> bool) -> bool {
    any_ident(quote::quote!(#ty), wanted)
}

fn any_ident(tokens: TokenStream, wanted: &dyn Fn(&Ident) -> bool) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => wanted(&ident),
        TokenTree::Group(group) => any_ident(group.stream(), wanted),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
