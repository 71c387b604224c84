// One C face over old and new generations of llama.h. What differs between generations is found by the types in
// the header that this file is compiled against; REFERENCE_API_NEW says which names the library exports.
#include "shim.h"

#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>
#if __has_include(<gguf.h>)
#include <gguf.h>
#endif

#include <cstring>
#include <string>
#include <vector>

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

// A batch at the next positions; logits of its last token only.
[[maybe_unused]] llama_batch batch(llama_batch (*get)(llama_token *, int32_t), llama_token * tokens, int32_t count, int32_t) {
    return get(tokens, count);
}
[[maybe_unused]] llama_batch batch(llama_batch (*get)(llama_token *, int32_t, llama_pos, llama_seq_id), llama_token * tokens,
                                   int32_t count, int32_t at) {
    return get(tokens, count, at, 0);
}

// Emptying the KV cache had three names.
struct first {}; struct second : first {}; struct third : second {};
template <class C> auto clear(C * c, third) -> decltype(llama_memory_clear(llama_get_memory(c), true), void()) {
    llama_memory_clear(llama_get_memory(c), true);
}
template <class C> auto clear(C * c, second) -> decltype(llama_kv_self_clear(c), void()) { llama_kv_self_clear(c); }
template <class C> auto clear(C * c, first) -> decltype(llama_kv_cache_clear(c), void()) { llama_kv_cache_clear(c); }

// Threads that wait between graphs, as the library's own command-line tools use; NULL where there are none.
using pool_new = ggml_threadpool_t (*)(ggml_threadpool_params *);
using pool_free = void (*)(ggml_threadpool_t);
#ifdef REFERENCE_API_NEW
template <class F> F of_cpu_backend(const char * name) {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    return cpu ? reinterpret_cast<F>(ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), name)) : nullptr;
}
pool_new new_pool() { return of_cpu_backend<pool_new>("ggml_threadpool_new"); }
pool_free free_pool() { return of_cpu_backend<pool_free>("ggml_threadpool_free"); }
#else
pool_new new_pool() { return ggml_threadpool_new; }
pool_free free_pool() { return ggml_threadpool_free; }
#endif

void free_model(llama_model * model) {
#ifdef REFERENCE_API_NEW
    llama_model_free(model);
#else
    llama_free_model(model);
#endif
}

bool see(ggml_tensor * tensor, bool ask, void * user);

}  // namespace

struct reference_session {
    llama_model * model;
    llama_context * context = nullptr;
    ggml_threadpool_t pool = nullptr;
    int32_t threads;
    bool fast;
    uint32_t capacity = 0;
    int32_t position = 0;
    reference_tap tap = nullptr;
    void * user = nullptr;
    std::vector<float> row = {};
#ifdef REFERENCE_API_NEW
    const llama_vocab * vocabulary() const { return llama_model_get_vocab(model); }
#else
    const llama_model * vocabulary() const { return model; }
#endif
};

namespace {

bool see(ggml_tensor * tensor, bool ask, void * user) {
    reference_session * session = static_cast<reference_session *>(user);
    if (!session->tap || tensor->type != GGML_TYPE_F32) return !ask;
    const char * op = ggml_op_name(tensor->op);
    if (ask) return session->tap(session->user, tensor->name, op, nullptr, 0) != 0;
    session->row.clear();
    const char * data = static_cast<const char *>(tensor->data);
    const size_t * nb = tensor->nb;
    for (int64_t l = 0; l < tensor->ne[3]; l++)
        for (int64_t k = 0; k < tensor->ne[2]; k++)
            for (int64_t j = 0; j < tensor->ne[1]; j++)
                for (int64_t i = 0; i < tensor->ne[0]; i++)
                    session->row.push_back(*reinterpret_cast<const float *>(data + i * nb[0] + j * nb[1] + k * nb[2] + l * nb[3]));
    session->tap(session->user, tensor->name, op, session->row.data(), static_cast<int64_t>(session->row.size()));
    return true;
}

}  // namespace

extern "C" reference_session * reference_open(const char * path, int32_t threads, int32_t mode) {
    messages.clear();
    llama_log_set(keep_message, nullptr);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    if (mode == REFERENCE_PLAIN) no_repacking(params, 0);
#ifdef REFERENCE_API_NEW
    llama_model * model = llama_model_load_from_file(path, params);
#else
    llama_model * model = llama_load_model_from_file(path, params);
#endif
    if (!model) return nullptr;
    reference_session * session = new reference_session{model};
    session->threads = threads;
    session->fast = mode == REFERENCE_FAST;
    if (pool_new make = new_pool()) {
        ggml_threadpool_params pool = ggml_threadpool_params_default(threads);
        session->pool = make(&pool);
    }
    return session;
}

extern "C" void reference_close(reference_session * session) {
    if (session->context) llama_free(session->context);
    free_model(session->model);
    if (session->pool) free_pool()(session->pool);
    delete session;
}

extern "C" int32_t reference_begin(reference_session * session, uint32_t positions) {
    session->position = 0;
    if (session->context && positions <= session->capacity) {
        clear(session->context, third{});
        return 0;
    }
    if (session->context) llama_free(session->context);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = session->capacity = positions < 512 ? 512 : positions;
    params.n_batch = params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = session->threads;
    if (!session->fast) {
        no_flash_attention(params, 0);
        params.n_batch = params.n_ubatch = 64;
        params.cb_eval = see;
        params.cb_eval_user_data = session;
    }
#ifdef REFERENCE_API_NEW
    session->context = llama_init_from_model(session->model, params);
#else
    session->context = llama_new_context_with_model(session->model, params);
#endif
    if (!session->context) return -1;
    if (session->pool) llama_attach_threadpool(session->context, session->pool, nullptr);
    return 1;
}

extern "C" int32_t reference_vocabulary(const reference_session * session) {
#ifdef REFERENCE_API_NEW
    return llama_vocab_n_tokens(session->vocabulary());
#else
    return llama_n_vocab(session->vocabulary());
#endif
}

extern "C" int32_t reference_layers(const reference_session * session) { return llama_n_layer(session->model); }

extern "C" int32_t reference_hidden(const reference_session * session) { return llama_n_embd(session->model); }

extern "C" int32_t reference_metadata(const reference_session * session, const char * key, char * text, int32_t capacity) {
    return llama_model_meta_val_str(session->model, key, text, capacity);
}

extern "C" const char * reference_tensor_type(const char * model, const char * tensor) {
    gguf_context * file = gguf_init_from_file(model, {/*no_alloc=*/true, /*ctx=*/nullptr});
    if (!file) return nullptr;
    auto at = gguf_find_tensor(file, tensor);
    const char * name = at < 0 ? nullptr : ggml_type_name(gguf_get_tensor_type(file, at));
    gguf_free(file);
    return name;
}

extern "C" int32_t reference_tokenize(const reference_session * session, const char * text, int32_t length,
                                      int32_t * tokens, int32_t capacity) {
    return llama_tokenize(session->vocabulary(), text, length, tokens, capacity, true, true);
}

extern "C" void reference_set_tap(reference_session * session, reference_tap tap, void * user) {
    session->tap = tap;
    session->user = user;
}

extern "C" int32_t reference_batch(const reference_session * session) {
    return static_cast<int32_t>(llama_n_batch(session->context));
}

extern "C" int32_t reference_decode(reference_session * session, int32_t * tokens, int32_t count, float * logits) {
    int32_t status = llama_decode(session->context, batch(llama_batch_get_one, tokens, count, session->position));
    if (status != 0) return status;
    llama_synchronize(session->context);
    session->position += count;
    if (!logits) return 0;
    const float * row = llama_get_logits_ith(session->context, -1);
    if (!row) return -1;
    std::memcpy(logits, row, sizeof(float) * reference_vocabulary(session));
    return 0;
}

extern "C" const char * reference_messages(void) { return messages.c_str(); }

extern "C" const char * reference_system_info(void) { return llama_print_system_info(); }
