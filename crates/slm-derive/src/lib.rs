//! The derive macro of `NamedLinears`, as `slm_nn` and the facade `slm` re-export it.
#![forbid(unsafe_code)]

mod fields;
mod named_linears;

use proc_macro::TokenStream;

/// Derives `NamedLinears` for a struct or an enum. A linear is named by the dotted path of fields that leads to it,
/// such as `layers.0.attn.q`.
///
/// | field | what is visited |
/// |---|---|
/// | `Linear` | the layer, by the name of the field |
/// | a type that implements `NamedLinears` | its layers, below the name of the field |
/// | `Vec`, array or tuple of such types | the items, below their index |
/// | `Option` or `Box` of such a type | its content, by the name of the field |
/// | any other type: Burn's modules, tensors, numbers | nothing |
/// | a type that mentions a type parameter | it must implement `NamedLinears`, which becomes a bound |
/// | any type with `#[module(skip)]` or `#[linears(skip)]` | nothing |
///
/// A variant of an enum adds its name, as it does in Burn's records: `mixer.Attention.q`. Fields of a tuple struct are
/// named by their index.
///
/// # Attributes
/// - `#[linears(skip)]` on a field leaves it out.
/// - `#[linears(rename = "q_proj")]` on a field gives it another name.
/// - `#[linears(crate = path)]` on the type names the crate that holds `slm_nn`. The default is `::slm_nn`.
#[proc_macro_derive(NamedLinears, attributes(linears, module))]
pub fn derive_named_linears(input: TokenStream) -> TokenStream {
    expand(input, "::slm_nn")
}

/// Derives `NamedLinears` in code that knows `slm_nn` as `slm::nn`: the facade re-exports it under that name.
#[doc(hidden)]
#[proc_macro_derive(FacadeNamedLinears, attributes(linears, module))]
pub fn derive_facade_named_linears(input: TokenStream) -> TokenStream {
    expand(input, "::slm::nn")
}

fn expand(input: TokenStream, nn: &str) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    named_linears::derive(&input, nn).unwrap_or_else(|error| error.to_compile_error()).into()
}
