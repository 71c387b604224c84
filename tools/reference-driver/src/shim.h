// The C face of the shim: what the Rust side declares in session.rs, the same for every generation of the llama API.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct reference_session;

// How the library computes. PLAIN: weights as they are in the file, no flash attention. FAST: its own defaults.
enum reference_mode { REFERENCE_PLAIN = 0, REFERENCE_FAST = 1 };

// Sees the tensors of the graph while they are computed. data is NULL where it is asked whether the tensor is
// wanted (nonzero: yes), else count floats in the order of the tensor's dimensions, the first fastest.
typedef int32_t (*reference_tap)(void * user, const char * name, const char * op, const float * data, int64_t count);

// A loaded model without a context, or NULL (see reference_messages).
struct reference_session * reference_open(const char * model, int32_t threads, int32_t mode);
void reference_close(struct reference_session * session);
// Empties the context, or makes one where there is none for this many positions. 0: emptied, 1: made, else failed.
int32_t reference_begin(struct reference_session * session, uint32_t positions);
int32_t reference_vocabulary(const struct reference_session * session);
int32_t reference_layers(const struct reference_session * session);
int32_t reference_hidden(const struct reference_session * session);
// Writes the value of a metadata key as text; its length, negative where there is none.
int32_t reference_metadata(const struct reference_session * session, const char * key, char * text, int32_t capacity);
// The name of a tensor's type in the file, or NULL where it has no such tensor.
const char * reference_tensor_type(const char * model, const char * tensor);
// Number of tokens; negative where capacity is too small: minus the number needed.
int32_t reference_tokenize(const struct reference_session * session, const char * text, int32_t length,
                           int32_t * tokens, int32_t capacity);
// Sets who sees tensors from now on; NULL for none. Nothing is seen in FAST mode.
void reference_set_tap(struct reference_session * session, reference_tap tap, void * user);
// Tokens per reference_decode at most.
int32_t reference_batch(const struct reference_session * session);
// Evaluates tokens at the next positions and writes the last one's reference_vocabulary() logits, unless logits is
// NULL; returns when all is computed, 0 on success.
int32_t reference_decode(struct reference_session * session, int32_t * tokens, int32_t count, float * logits);
// The warnings and errors the library logged since the last open; empty where there were none. Valid until the
// next call.
const char * reference_messages(void);
const char * reference_system_info(void);

#ifdef __cplusplus
}
#endif
