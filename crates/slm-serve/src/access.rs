//! Authentication by an API key.

use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;

use crate::error::ApiError;

/// The key that requests must carry, if any. Only its hash is stored.
#[derive(Debug, Clone)]
pub(crate) struct Access(Option<blake3::Hash>);

impl Access {
    pub(crate) fn new(key: Option<&str>) -> Self {
        Self(key.map(|key| blake3::hash(key.as_bytes())))
    }

    /// Checks the header `Authorization: Bearer KEY` in constant time.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(expected) = self.0 else { return Ok(()) };
        let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let key = given.and_then(|value| {
            let (scheme, key) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
        });
        match key {
            // `blake3::Hash` compares in constant time.
            Some(key) if blake3::hash(key) == expected => Ok(()),
            Some(_) => Err(refused("the API key is wrong")),
            None => Err(refused("this server needs an API key: send it as \"Authorization: Bearer KEY\"")),
        }
    }
}

fn refused(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: Option<&str>, header: Option<&str>) -> Option<u16> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        Access::new(key).check(&headers).err().map(|error| error.status().as_u16())
    }

    #[test]
    fn only_the_key_opens() {
        assert_eq!(check(None, None), None);
        assert_eq!(check(None, Some("Bearer any")), None);
        assert_eq!(check(Some("s3cret"), Some("Bearer s3cret")), None);
        assert_eq!(check(Some("s3cret"), Some("bearer s3cret")), None);
        for header in
            [None, Some(""), Some("s3cret"), Some("Bearer "), Some("Bearer s3cre"), Some("Basic s3cret")]
        {
            assert_eq!(check(Some("s3cret"), header), Some(401), "{header:?}");
        }
    }
}
