//! The derive macro for `NamedLinears`, which `slm_nn` and the facade `slm` re-export.
#![forbid(unsafe_code)]

mod fields;
mod named_linears;

use proc_macro::TokenStream;

/// Derives `NamedLinears` for a struct or an enum. The name of a linear is the dotted path of fields that leads to it,
/// such as `layers.0.attn.q`.
///
/// | field | what is visited |
/// |---|---|
/// | `Linear` | the layer, with the name of the field |
/// | a type that implements `NamedLinears` | its layers, with the name of the field as prefix |
/// | `Vec`, array or tuple of such types | the items, with their index as prefix |
/// | `Option` or `Box` of such a type | its content, with the name of the field |
/// | any other type: Burn's modules, tensors, numbers | nothing |
/// | a type that mentions a type parameter | it must implement `NamedLinears`, which becomes a bound |
/// | any type with `#[module(skip)]` or `#[linears(skip)]` | nothing |
///
/// A variant of an enum adds its name to the path, as in Burn's records: `mixer.Attention.q`. Fields of a tuple struct
/// are named by their index.
///
/// # Attributes
/// - `#[linears(skip)]` on a field excludes it.
/// - `#[linears(rename = "q_proj")]` on a field gives it another name.
/// - `#[linears(crate = path)]` on the type gives the path of `slm_nn`. The default is `::slm_nn`.
#[proc_macro_derive(NamedLinears, attributes(linears, module))]
pub fn derive_named_linears(input: TokenStream) -> TokenStream {
    expand(input, "::slm_nn")
}

/// Derives `NamedLinears` for the facade, which re-exports `slm_nn` as `slm::nn`.
#[doc(hidden)]
#[proc_macro_derive(FacadeNamedLinears, attributes(linears, module))]
pub fn derive_facade_named_linears(input: TokenStream) -> TokenStream {
    expand(input, "::slm::nn")
}

fn expand(input: TokenStream, nn: &str) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    named_linears::derive(&input, nn).unwrap_or_else(|error| error.to_compile_error()).into()
}
