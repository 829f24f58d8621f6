//! The generated implementation of `NamedLinears`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Fields, Ident, Index, Path, parse_quote};

use crate::fields::{Visited, crate_path, visited};

/// The method to generate: shared or mutable access.
#[derive(Clone, Copy)]
enum Access {
    Shared,
    Mutable,
}

impl Access {
    fn reference(self) -> TokenStream {
        match self {
            Self::Shared => quote!(&),
            Self::Mutable => quote!(&mut),
        }
    }
}

pub(crate) fn derive(input: &DeriveInput, nn: &str) -> syn::Result<TokenStream> {
    let nn = match crate_path(&input.attrs)? {
        Some(path) => path,
        None => syn::parse_str::<Path>(nn)?,
    };
    let parameters: Vec<&Ident> = input.generics.type_params().map(|parameter| &parameter.ident).collect();
    let mut bounds = Vec::new();
    let [shared, mutable] = match &input.data {
        Data::Struct(data) => {
            let fields = visited(&data.fields, &parameters)?;
            bounds.extend(fields.iter().filter(|field| field.generic).map(|field| field.ty));
            [Access::Shared, Access::Mutable].map(|access| struct_body(&fields, &nn, access))
        }
        Data::Enum(data) => {
            let mut variants = Vec::new();
            for variant in &data.variants {
                let fields = visited(&variant.fields, &parameters)?;
                bounds.extend(fields.iter().filter(|field| field.generic).map(|field| field.ty));
                variants.push((&variant.ident, &variant.fields, fields));
            }
            [Access::Shared, Access::Mutable].map(|access| {
                let arms = variants.iter().map(|(name, all, fields)| arm(name, all, fields, &nn, access));
                quote!(match self { #(#arms)* })
            })
        }
        Data::Union(_) => {
            return Err(syn::Error::new_spanned(&input.ident, "NamedLinears is for structs and enums"));
        }
    };
    let mut generics = input.generics.clone();
    if !bounds.is_empty() {
        let clause = generics.make_where_clause();
        clause.predicates.extend::<Vec<syn::WherePredicate>>(
            bounds.into_iter().map(|ty| parse_quote!(#ty: #nn::NamedLinears)).collect(),
        );
    }
    let name = &input.ident;
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        #[allow(unused_imports, unused_variables, clippy::match_single_binding)]
        impl #impl_generics #nn::NamedLinears for #name #ty_generics #where_clause {
            fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &#nn::Linear)) {
                use #nn::__private::{VisitLinears as _, VisitNothing as _};
                #shared
            }

            fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut #nn::Linear)) {
                use #nn::__private::{VisitLinearsMut as _, VisitNothingMut as _};
                #mutable
            }
        }
    })
}

fn struct_body(fields: &[Visited<'_>], nn: &Path, access: Access) -> TokenStream {
    let reference = access.reference();
    let visits = fields.iter().map(|field| {
        let place = match field.ident {
            Some(ident) => quote!(#reference self.#ident),
            None => {
                let index = Index::from(field.index);
                quote!(#reference self.#index)
            }
        };
        visit(&place, &field.name, field.generic, nn, access)
    });
    quote!(#(#visits)*)
}

/// Generates the match arm of one enum variant. The only unnamed field of a variant has the variant's name, as in
/// Burn's records.
fn arm(variant: &Ident, all: &Fields, fields: &[Visited<'_>], nn: &Path, access: Access) -> TokenStream {
    let bindings: Vec<Ident> = (0..all.len()).map(|index| format_ident!("field_{index}")).collect();
    let pattern = match all {
        Fields::Named(named) => {
            let names = named.named.iter().map(|field| &field.ident);
            quote!({ #(#names: #bindings),* })
        }
        Fields::Unnamed(_) => quote!(( #(#bindings),* )),
        Fields::Unit => quote!(),
    };
    let alone = matches!(all, Fields::Unnamed(_)) && all.len() == 1;
    let visits = fields.iter().map(|field| {
        let binding = &bindings[field.index];
        let name = if alone { variant.to_string() } else { format!("{variant}.{}", field.name) };
        visit(&quote!(#binding), &name, field.generic, nn, access)
    });
    quote!(Self::#variant #pattern => { #(#visits)* })
}

/// Generates the visit of the field that `place` refers to. Method resolution finds out whether a concrete type
/// implements the trait: the probe's own method takes precedence over that of a reference to it.
fn visit(place: &TokenStream, name: &str, generic: bool, nn: &Path, access: Access) -> TokenStream {
    match (access, generic) {
        (Access::Shared, true) => quote!(#nn::__private::visit_field(#place, #name, visit);),
        (Access::Mutable, true) => quote!(#nn::__private::visit_field_mut(#place, #name, visit);),
        (Access::Shared, false) => {
            quote!((&#nn::__private::Probe(#place)).visit_linears(#name, visit);)
        }
        (Access::Mutable, false) => {
            quote!((&mut #nn::__private::ProbeMut(#place)).visit_linears_mut(#name, visit);)
        }
    }
}
