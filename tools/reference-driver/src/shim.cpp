// One C face over old and new generations of llama.h. What differs between generations is found by the types in
// the header that this file is compiled against; REFERENCE_API_NEW says which names the library exports.
#include "shim.h"

#include <llama.h>

#include <cstring>
#include <string>

namespace {

std::string messages;

void keep_message(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) messages += text;
}

// Weights as they are in the file, where the library can repack them.
template <class P> auto no_repacking(P & p, int) -> decltype(p.use_extra_bufts, void()) { p.use_extra_bufts = false; }
template <class P> void no_repacking(P &, long) {}

// Flash attention was a flag before it was a type; 0 is off in both.
template <class P> auto no_flash_attention(P & p, int) -> decltype(p.flash_attn_type, void()) {
    p.flash_attn_type = static_cast<decltype(p.flash_attn_type)>(0);
}
template <class P> auto no_flash_attention(P & p, long) -> decltype(p.flash_attn, void()) { p.flash_attn = false; }
template <class P> void no_flash_attention(P &, ...) {}

// A batch of one token at the next position.
[[maybe_unused]] llama_batch one(llama_batch (*get)(llama_token *, int32_t), llama_token * token, int32_t) { return get(token, 1); }
[[maybe_unused]] llama_batch one(llama_batch (*get)(llama_token *, int32_t, llama_pos, llama_seq_id), llama_token * token, int32_t at) {
    return get(token, 1, at, 0);
}

}  // namespace

struct reference_session {
    llama_model * model;
    llama_context * context;
    int32_t position;
#ifdef REFERENCE_API_NEW
    const llama_vocab * vocabulary() const { return llama_model_get_vocab(model); }
#else
    const llama_model * vocabulary() const { return model; }
#endif
};

extern "C" reference_session * reference_open(const char * path, uint32_t n_ctx) {
    messages.clear();
    llama_log_set(keep_message, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    no_repacking(model_params, 0);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = n_ctx;
    params.n_threads = params.n_threads_batch = 1;
    no_flash_attention(params, 0);
#ifdef REFERENCE_API_NEW
    llama_model * model = llama_model_load_from_file(path, model_params);
    llama_context * context = model ? llama_init_from_model(model, params) : nullptr;
#else
    llama_model * model = llama_load_model_from_file(path, model_params);
    llama_context * context = model ? llama_new_context_with_model(model, params) : nullptr;
#endif
    if (!context) {
#ifdef REFERENCE_API_NEW
        if (model) llama_model_free(model);
#else
        if (model) llama_free_model(model);
#endif
        return nullptr;
    }
    return new reference_session{model, context, 0};
}

extern "C" void reference_close(reference_session * session) {
    llama_free(session->context);
#ifdef REFERENCE_API_NEW
    llama_model_free(session->model);
#else
    llama_free_model(session->model);
#endif
    delete session;
}

extern "C" int32_t reference_vocabulary(const reference_session * session) {
#ifdef REFERENCE_API_NEW
    return llama_vocab_n_tokens(session->vocabulary());
#else
    return llama_n_vocab(session->vocabulary());
#endif
}

extern "C" int32_t reference_tokenize(const reference_session * session, const char * text, int32_t length,
                                      int32_t * tokens, int32_t capacity) {
    return llama_tokenize(session->vocabulary(), text, length, tokens, capacity, true, true);
}

extern "C" int32_t reference_decode(reference_session * session, int32_t token, float * logits) {
    llama_token id = token;
    int32_t status = llama_decode(session->context, one(llama_batch_get_one, &id, session->position));
    if (status != 0) return status;
    const float * row = llama_get_logits_ith(session->context, -1);
    if (!row) return -1;
    session->position += 1;
    std::memcpy(logits, row, sizeof(float) * reference_vocabulary(session));
    return 0;
}

extern "C" const char * reference_messages(void) { return messages.c_str(); }

extern "C" const char * reference_system_info(void) { return llama_print_system_info(); }
