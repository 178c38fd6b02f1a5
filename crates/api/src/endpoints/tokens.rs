//! Tokens.

use crate::endpoint::{Json, NoBody, endpoints};
use crate::types::{CreateToken, NewToken, TokenInfo};

endpoints! {
    /// All tokens, without their secrets
    List: GET "/v1/tokens", Admin, NoBody => Json<Vec<TokenInfo>>, [];
    /// Create a token; its secret is shown once
    Create: POST "/v1/tokens", Admin, Json<CreateToken> => Json<NewToken>,
        [InvalidTokenName, TokenExists, ZeroLifetime, AppNotFound, AppBeingDestroyed];
    /// Revoke a token
    Revoke { name: String }: DELETE "/v1/tokens/{name}", Admin, NoBody => NoBody, [TokenNotFound];
}
