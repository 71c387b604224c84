// The C face of the shim: what the Rust side declares in session.rs, the same for every generation of the llama API.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct reference_session;

// A loaded model with a fresh context of n_ctx positions, or NULL (see reference_messages).
struct reference_session * reference_open(const char * model, uint32_t n_ctx);
void reference_close(struct reference_session * session);
int32_t reference_vocabulary(const struct reference_session * session);
// Number of tokens; negative where capacity is too small: minus the number needed.
int32_t reference_tokenize(const struct reference_session * session, const char * text, int32_t length,
                           int32_t * tokens, int32_t capacity);
// Evaluates one token at the next position and writes reference_vocabulary() logits; 0 on success.
int32_t reference_decode(struct reference_session * session, int32_t token, float * logits);
// The warnings and errors the library logged since the last open; empty where there were none. Valid until the
// next call.
const char * reference_messages(void);
const char * reference_system_info(void);

#ifdef __cplusplus
}
#endif
