# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_bitnet_global_optspecs
    string join \n h/help V/version
end

function __fish_bitnet_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_bitnet_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_bitnet_using_subcommand
    set -l cmd (__fish_bitnet_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c bitnet -n "__fish_bitnet_needs_command" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_needs_command" -s V -l version -d 'Print version'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "run" -d 'Generate text'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "chat" -d 'Talk with a model in the terminal'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "serve" -d 'Serve the model over HTTP, with OpenAI\'s interface and a page to chat with'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "tokenize" -d 'Show the token ids of a text'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "logits" -d 'Write the logits of every position of a token sequence'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "evaluate" -d 'Answer requests for logits, intermediate results and times, line by line (for cross-validation)'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "inspect" -d 'Show what a GGUF file holds'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "perplexity" -d 'Measure how well the model predicts a text'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "models" -d 'Fetch, verify, locate, compare and bundle models'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "convert" -d 'Make a GGUF file from a Hugging Face model directory'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "quantize" -d 'Make a GGUF file with other weight types from a GGUF file'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "bench" -d 'Measure prompt processing and generation'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "kernels" -d 'List the kernels of this build, and which one this CPU would get'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "limits" -d 'Measure what this machine can do: read bandwidth and int8 operations'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "completions" -d 'Print the completions of a shell'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "man" -d 'Write man pages'
complete -c bitnet -n "__fish_bitnet_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -s t -l threads -d 'Compute threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l activation-quant -d 'How ternary layers quantize activations: per token as BitNet is trained, or per block of 256 as llama.cpp does' -r -f -a "token\t''
block256\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l kernels -d 'Kernel set to use, of those that `bitnet kernels` shows; one that this CPU cannot run is an error (default: BITNET_KERNELS, else auto)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l device -d 'Where to compute; anything but auto is a demand, never a wish' -r -f -a "auto\t''
cpu\t''
gpu\t''
cuda\t''
hip\t''
metal\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l tensor-parallel -d 'GPUs that share the model, through NCCL: each holds its part of every matrix' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l i2s-layout -d 'How I2_S weights are packed, which the file does not say' -r -f -a "x86\t''
arm\t''
row4\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l tl-config -d 'Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: the file\'s own, else bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l code-map -d 'What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur: such files are refused without it' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l kv -d 'How the KV cache stores keys and values: half floats, or blocks of int8 in a little over half the bytes' -r -f -a "f16\t''
q8_0\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l head -d 'How the best tokens are found: from all rows of the output head, or, with the same result, from a compact copy that leaves few rows to read' -r -f -a "full\t''
two-stage\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -s p -l prompt -d 'The text; special tokens in it are parsed. `-` reads stdin' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -s f -l prompt-file -d 'Take the text from a file (one newline at its end is dropped)' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l prompt-tokens -d 'Take exactly these token ids; no BOS is added' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l chat -d 'Wrap the prompt in a chat template: auto (the file\'s own, else a detected one), gguf, raw, instruct or llama3-chat' -r -f -a "auto\t''
raw\t''
instruct\t''
llama3-chat\t''
gguf\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l system -d 'The system message of the chat' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -s n -l max-tokens -d 'Tokens to generate at most' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -s c -l ctx-size -d 'Positions of the context window (default: what the model was trained for, 4096 at most)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l context-shift -d 'When the window is full, drop the older half of what follows the first KEEP positions (1) and go on' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l prompt-lookup -d 'Guess up to N tokens from what followed the same words before, and check them in one pass; the output is the same' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l stop -d 'End at this text (not shown); may be given more than once' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l stop-token -d 'End at this token id; may be given more than once' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l receipt -d 'Write a receipt of this run: digests, settings, tokens, and what the kernels counted' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l repetition-penalty -d 'Divide (positive) or multiply (negative) logits of tokens that occurred; 1 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l presence-penalty -d 'Subtract from logits of tokens that occurred; 0 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l frequency-penalty -d 'Subtract for every occurrence; 0 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l penalty-window -d 'How many of the latest tokens the penalties look at' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l top-k -d 'Keep the N best tokens; 0 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l top-p -d 'Keep the fewest tokens that together are this probable; 1 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l min-p -d 'Keep tokens at least this probable as a part of the best one; 0 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l temperature -d 'Flatten (above 1) or sharpen (below 1) the choice; 0 always takes the best token' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l seed -d 'Makes the choices repeatable (default: random, and shown)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l ignore-eos -d 'Go on past the model\'s own end of sequence'
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -l json -d 'Print one JSON object instead of the text'
complete -c bitnet -n "__fish_bitnet_using_subcommand run" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -s t -l threads -d 'Compute threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l activation-quant -d 'How ternary layers quantize activations: per token as BitNet is trained, or per block of 256 as llama.cpp does' -r -f -a "token\t''
block256\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l kernels -d 'Kernel set to use, of those that `bitnet kernels` shows; one that this CPU cannot run is an error (default: BITNET_KERNELS, else auto)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l device -d 'Where to compute; anything but auto is a demand, never a wish' -r -f -a "auto\t''
cpu\t''
gpu\t''
cuda\t''
hip\t''
metal\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l tensor-parallel -d 'GPUs that share the model, through NCCL: each holds its part of every matrix' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l i2s-layout -d 'How I2_S weights are packed, which the file does not say' -r -f -a "x86\t''
arm\t''
row4\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l tl-config -d 'Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: the file\'s own, else bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l code-map -d 'What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur: such files are refused without it' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l kv -d 'How the KV cache stores keys and values: half floats, or blocks of int8 in a little over half the bytes' -r -f -a "f16\t''
q8_0\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l head -d 'How the best tokens are found: from all rows of the output head, or, with the same result, from a compact copy that leaves few rows to read' -r -f -a "full\t''
two-stage\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l chat -d 'The chat template: auto (the file\'s own, else a detected one), gguf, raw, instruct or llama3-chat' -r -f -a "auto\t''
raw\t''
instruct\t''
llama3-chat\t''
gguf\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l system -d 'The system message' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -s n -l max-tokens -d 'Tokens of an answer at most' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -s c -l ctx-size -d 'Positions of the context window (default: what the model was trained for, 4096 at most)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l stop -d 'End an answer at this text (not shown); may be given more than once' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l load -d 'Go on with a conversation that /save or the web page wrote' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l repetition-penalty -d 'Divide (positive) or multiply (negative) logits of tokens that occurred; 1 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l presence-penalty -d 'Subtract from logits of tokens that occurred; 0 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l frequency-penalty -d 'Subtract for every occurrence; 0 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l penalty-window -d 'How many of the latest tokens the penalties look at' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l top-k -d 'Keep the N best tokens; 0 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l top-p -d 'Keep the fewest tokens that together are this probable; 1 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l min-p -d 'Keep tokens at least this probable as a part of the best one; 0 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l temperature -d 'Flatten (above 1) or sharpen (below 1) the choice; 0 always takes the best token' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l seed -d 'Makes the choices repeatable (default: random, and shown)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l metrics -d 'Show tokens/s, context and kernel selection after every answer'
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -l no-history -d 'Keep what is typed in no history file'
complete -c bitnet -n "__fish_bitnet_using_subcommand chat" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -s t -l threads -d 'Compute threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l activation-quant -d 'How ternary layers quantize activations: per token as BitNet is trained, or per block of 256 as llama.cpp does' -r -f -a "token\t''
block256\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l kernels -d 'Kernel set to use, of those that `bitnet kernels` shows; one that this CPU cannot run is an error (default: BITNET_KERNELS, else auto)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l device -d 'Where to compute; anything but auto is a demand, never a wish' -r -f -a "auto\t''
cpu\t''
gpu\t''
cuda\t''
hip\t''
metal\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l tensor-parallel -d 'GPUs that share the model, through NCCL: each holds its part of every matrix' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l i2s-layout -d 'How I2_S weights are packed, which the file does not say' -r -f -a "x86\t''
arm\t''
row4\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l tl-config -d 'Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: the file\'s own, else bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l code-map -d 'What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur: such files are refused without it' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l kv -d 'How the KV cache stores keys and values: half floats, or blocks of int8 in a little over half the bytes' -r -f -a "f16\t''
q8_0\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l head -d 'How the best tokens are found: from all rows of the output head, or, with the same result, from a compact copy that leaves few rows to read' -r -f -a "full\t''
two-stage\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l host -d 'The address to listen on; any but this machine\'s own needs an API key' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l port -d '0 takes a free one, which is printed' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l alias -d 'How requests name the model (default: its name, or the file\'s without its ending)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l chat -d 'The chat template: auto (the file\'s own, else a detected one), gguf, raw, instruct or llama3-chat' -r -f -a "auto\t''
raw\t''
instruct\t''
llama3-chat\t''
gguf\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -s c -l ctx-size -d 'Positions of each answer with its prompt (default: what the model was trained for, 4096 at most)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l parallel -d 'Answers that are computed side by side' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l replicas -d 'Engines side by side behind one queue, each with its share of the threads, or with GPUs of its own; --parallel and --kv-sequences are of each' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l kv-sequences -d 'The KV cache has room for so many answers of full length, or for more that are shorter' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l prefix-cache -d 'Beginnings of prompts that are kept for later ones; 0 keeps none' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l queue -d 'Requests that may wait, all clients together; more get 429' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l queue-per-client -d 'Requests of one client that may wait' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -s n -l max-tokens -d 'Tokens of an answer where the request does not say (default: as many as the context holds)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l max-choices -d 'Choices of one request at most' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l api-key-file -d 'A file with one API key per line; requests need one of them (BITNET_API_KEY adds another)' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l cors-origin -d 'Let pages of this origin use the server (such as https://example.org, or * for all); may be given more than once' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l tls-cert -d 'The certificate chain in PEM; serves TLS only' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l tls-key -d 'The private key in PEM' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l request-timeout -d 'Seconds that an answer may take, waiting included' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l drain-timeout -d 'Seconds that answers under way get when the server is told to end' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l client-timeout -d 'Seconds for the head of a request, for its body, and for a write that makes no progress' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l max-body -d 'Bytes of the body of a request' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l max-connections -d 'Open connections; more are closed at once' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l repetition-penalty -d 'Divide (positive) or multiply (negative) logits of tokens that occurred; 1 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l presence-penalty -d 'Subtract from logits of tokens that occurred; 0 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l frequency-penalty -d 'Subtract for every occurrence; 0 is off' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l penalty-window -d 'How many of the latest tokens the penalties look at' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l top-k -d 'Keep the N best tokens; 0 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l top-p -d 'Keep the fewest tokens that together are this probable; 1 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l min-p -d 'Keep tokens at least this probable as a part of the best one; 0 keeps all' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l temperature -d 'Flatten (above 1) or sharpen (below 1) the choice; 0 always takes the best token' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l seed -d 'Makes the choices repeatable (default: random, and shown)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l open-to-all -d 'Serve other machines without a key'
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l log-prompts -d 'Log the text of prompts'
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l no-metrics -d 'Do not serve /metrics'
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -l json -d 'Print where it listens as one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand serve" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -s p -l prompt -d 'The text; special tokens in it are parsed. `-` reads stdin' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -s f -l prompt-file -d 'Take the text from a file (one newline at its end is dropped)' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -l prompt-tokens -d 'Take exactly these token ids; no BOS is added' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -l chat -d 'Wrap the prompt in a chat template: auto (the file\'s own, else a detected one), gguf, raw, instruct or llama3-chat' -r -f -a "auto\t''
raw\t''
instruct\t''
llama3-chat\t''
gguf\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -l system -d 'The system message of the chat' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand tokenize" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -s t -l threads -d 'Compute threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l activation-quant -d 'How ternary layers quantize activations: per token as BitNet is trained, or per block of 256 as llama.cpp does' -r -f -a "token\t''
block256\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l kernels -d 'Kernel set to use, of those that `bitnet kernels` shows; one that this CPU cannot run is an error (default: BITNET_KERNELS, else auto)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l device -d 'Where to compute; anything but auto is a demand, never a wish' -r -f -a "auto\t''
cpu\t''
gpu\t''
cuda\t''
hip\t''
metal\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l tensor-parallel -d 'GPUs that share the model, through NCCL: each holds its part of every matrix' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l i2s-layout -d 'How I2_S weights are packed, which the file does not say' -r -f -a "x86\t''
arm\t''
row4\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l tl-config -d 'Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: the file\'s own, else bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l code-map -d 'What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur: such files are refused without it' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l kv -d 'How the KV cache stores keys and values: half floats, or blocks of int8 in a little over half the bytes' -r -f -a "f16\t''
q8_0\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l head -d 'How the best tokens are found: from all rows of the output head, or, with the same result, from a compact copy that leaves few rows to read' -r -f -a "full\t''
two-stage\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l tokens -d 'Token ids to evaluate' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -s o -l out -d 'The file to write' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -l json -d 'Print a JSON object about the file'
complete -c bitnet -n "__fish_bitnet_using_subcommand logits" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -s t -l threads -d 'Compute threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l activation-quant -d 'How ternary layers quantize activations: per token as BitNet is trained, or per block of 256 as llama.cpp does' -r -f -a "token\t''
block256\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l kernels -d 'Kernel set to use, of those that `bitnet kernels` shows; one that this CPU cannot run is an error (default: BITNET_KERNELS, else auto)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l device -d 'Where to compute; anything but auto is a demand, never a wish' -r -f -a "auto\t''
cpu\t''
gpu\t''
cuda\t''
hip\t''
metal\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l tensor-parallel -d 'GPUs that share the model, through NCCL: each holds its part of every matrix' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l i2s-layout -d 'How I2_S weights are packed, which the file does not say' -r -f -a "x86\t''
arm\t''
row4\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l tl-config -d 'Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: the file\'s own, else bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l code-map -d 'What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur: such files are refused without it' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l kv -d 'How the KV cache stores keys and values: half floats, or blocks of int8 in a little over half the bytes' -r -f -a "f16\t''
q8_0\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l head -d 'How the best tokens are found: from all rows of the output head, or, with the same result, from a compact copy that leaves few rows to read' -r -f -a "full\t''
two-stage\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -s c -l ctx-size -d 'Positions of the context window (default: what the model was trained for, 4096 at most)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l sequences -d 'The KV cache has room for so many sequences of full length' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand evaluate" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand inspect" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand inspect" -s c -l ctx-size -d 'Positions to state the memory for (default: what the model was trained for, 4096 at most)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand inspect" -l html -d 'Write a page as well: sizes of the tensors, histograms of their codes and values' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand inspect" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand inspect" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -s t -l threads -d 'Compute threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l activation-quant -d 'How ternary layers quantize activations: per token as BitNet is trained, or per block of 256 as llama.cpp does' -r -f -a "token\t''
block256\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l kernels -d 'Kernel set to use, of those that `bitnet kernels` shows; one that this CPU cannot run is an error (default: BITNET_KERNELS, else auto)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l device -d 'Where to compute; anything but auto is a demand, never a wish' -r -f -a "auto\t''
cpu\t''
gpu\t''
cuda\t''
hip\t''
metal\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l tensor-parallel -d 'GPUs that share the model, through NCCL: each holds its part of every matrix' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l i2s-layout -d 'How I2_S weights are packed, which the file does not say' -r -f -a "x86\t''
arm\t''
row4\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l tl-config -d 'Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: the file\'s own, else bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l code-map -d 'What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur: such files are refused without it' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l kv -d 'How the KV cache stores keys and values: half floats, or blocks of int8 in a little over half the bytes' -r -f -a "f16\t''
q8_0\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l head -d 'How the best tokens are found: from all rows of the output head, or, with the same result, from a compact copy that leaves few rows to read' -r -f -a "full\t''
two-stage\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -s f -l file -d 'The text; `-` reads stdin, one newline at the end is dropped' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -s c -l ctx-size -d 'Tokens of a chunk' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l chunks -d 'Chunks to score: the first N at most, or those from A up to B, which the text must have (default: all)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -l json -d 'Print one JSON object, with the sums of every chunk'
complete -c bitnet -n "__fish_bitnet_using_subcommand perplexity" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "list" -d 'What the catalog holds, and what is here'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "fetch" -d 'Fetch models, verify them, and print their paths'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "verify" -d 'Read models again and compare their digests; without names, all that are here'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "path" -d 'Print the path of a model that is here'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "rm" -d 'Remove models from the cache'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "inspect" -d 'Show what a GGUF file holds, as `bitnet inspect`'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "diff" -d 'Compare two GGUF files by metadata and tensors'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "bundle" -d 'Write models that are here into one file, for machines without network'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and not __fish_seen_subcommand_from list fetch verify path rm inspect diff bundle help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from list" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from fetch" -l sha256 -d 'The digest that the file must have' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from fetch" -l accept-licence -d 'Accept a licence by its name; remembered' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from fetch" -l connections -d 'Connections at once' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from fetch" -l verify -d 'Read what is here already and compare its digest'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from fetch" -l offline -d 'Never touch the network; what is here is still verified'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from fetch" -l json -d 'Print JSON lines'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from fetch" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from verify" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from path" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from path" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from rm" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from inspect" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from inspect" -s c -l ctx-size -d 'Positions to state the memory for (default: what the model was trained for, 4096 at most)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from inspect" -l html -d 'Write a page as well: sizes of the tensors, histograms of their codes and values' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from inspect" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from inspect" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from inspect" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from diff" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from diff" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from bundle" -s o -l out -d 'The file to write' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from bundle" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from bundle" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "list" -d 'What the catalog holds, and what is here'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "fetch" -d 'Fetch models, verify them, and print their paths'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "verify" -d 'Read models again and compare their digests; without names, all that are here'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "path" -d 'Print the path of a model that is here'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "rm" -d 'Remove models from the cache'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "inspect" -d 'Show what a GGUF file holds, as `bitnet inspect`'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "diff" -d 'Compare two GGUF files by metadata and tensors'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "bundle" -d 'Write models that are here into one file, for machines without network'
complete -c bitnet -n "__fish_bitnet_using_subcommand models; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -s o -l out -d 'The file to write' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l outtype -d 'Type of the linear layers (default: i2_s for ternary models, else f16)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l weight-scale -d 'What weight_scale does to packed weights (default: by config.json)' -r -f -a "multiply\t'Weight = code * weight_scale (AutoBitLinear)'
divide\t'Weight = code / weight_scale (BitLinear)'"
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l pre -d 'The pre-tokenizer, where tokenizer.json has one that is not recognised' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l tl-config -d 'Tile sizes for TL1 or TL2: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l name -d 'The model\'s name in the file (default: by config.json, else the directory\'s)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l embedding-type -d 'Type of the token embedding (default: f16 beside ternary layers, else as --type; the embedding that is also the head as the head)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l output-type -d 'Type of the head, where it is a tensor of its own (default: f16 beside ternary layers, q6_k beside smaller types)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -s t -l threads -d 'Threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l force -d 'Replace the output file where it exists'
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -l json -d 'Print one JSON object, with what was done to every tensor'
complete -c bitnet -n "__fish_bitnet_using_subcommand convert" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l type -d 'Type of the linear layers' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l i2s-layout -d 'How I2_S weights are packed, which the file does not say' -r -f -a "x86\t''
arm\t''
row4\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l tl-config -d 'Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: the file\'s own, else bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l code-map -d 'What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur: such files are refused without it' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l embedding-type -d 'Type of the token embedding (default: f16 beside ternary layers, else as --type; the embedding that is also the head as the head)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l output-type -d 'Type of the head, where it is a tensor of its own (default: f16 beside ternary layers, q6_k beside smaller types)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -s t -l threads -d 'Threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l allow-requantize -d 'Decode and quantize again what is block-quantized already'
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l force -d 'Replace the output file where it exists'
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -l json -d 'Print one JSON object, with what was done to every tensor'
complete -c bitnet -n "__fish_bitnet_using_subcommand quantize" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -s m -l model -d 'A GGUF file, or a model that was fetched (`bitnet models list`)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -s t -l threads -d 'Compute threads (default: BITNET_THREADS, else the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l activation-quant -d 'How ternary layers quantize activations: per token as BitNet is trained, or per block of 256 as llama.cpp does' -r -f -a "token\t''
block256\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l kernels -d 'Kernel set to use, of those that `bitnet kernels` shows; one that this CPU cannot run is an error (default: BITNET_KERNELS, else auto)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l device -d 'Where to compute; anything but auto is a demand, never a wish' -r -f -a "auto\t''
cpu\t''
gpu\t''
cuda\t''
hip\t''
metal\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l tensor-parallel -d 'GPUs that share the model, through NCCL: each holds its part of every matrix' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l i2s-layout -d 'How I2_S weights are packed, which the file does not say' -r -f -a "x86\t''
arm\t''
row4\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l tl-config -d 'Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between shapes (default: the file\'s own, else bitnet.cpp\'s presets)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l code-map -d 'What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur: such files are refused without it' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l kv -d 'How the KV cache stores keys and values: half floats, or blocks of int8 in a little over half the bytes' -r -f -a "f16\t''
q8_0\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l head -d 'How the best tokens are found: from all rows of the output head, or, with the same result, from a compact copy that leaves few rows to read' -r -f -a "full\t''
two-stage\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l pp -d 'Prompt lengths to measure, 0 for none' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l tg -d 'Numbers of generated tokens to measure, 0 for none' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l depth -d 'Generate after so many tokens, 0 in an empty context' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l sequences -d 'Generate in so many sequences at once, in empty contexts' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -s r -l repetitions -d 'Samples of each, after one that is not counted' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l no-mmap -d 'Read the file into memory instead of mapping it'
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l products -d 'Also time the products of all layers alone, one row, from weights that no cache holds (on an H100)'
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand bench" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l kernels -d 'Select as if this had been given to `run`' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l device -r -f -a "auto\t''
cpu\t''
gpu\t''
cuda\t''
hip\t''
metal\t''"
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l check-device -d 'Instead, run every GPU kernel on random inputs of this many random shapes and compare it with its definition; exit code 9 where one is wrong' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l check-team -d 'Instead, compute this model on --tensor-parallel GPUs and on one, and compare; exit code 9 where they differ in a bit' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l tensor-parallel -d 'GPUs that --check-team takes' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l replay -d 'Instead, compute one row of a matrix product from this file with every kernel that this CPU runs; exit code 9 where they differ in a bit' -r -F
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l lab -d 'Instead, check every kernel for weights of this type against the scalar definition and time them in turns' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l tune -d 'Instead, time the kernels for the shapes of this model, and write a profile that later runs on this CPU with this binary load' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l columns -d 'Columns of the weights of the lab' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l rows -d 'Rows of the weights of the lab and of tuning (default: more than the caches hold where reading is the limit)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l count -d 'Numbers of activation rows of the lab' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l threads -d 'Threads of the lab and of tuning (default: the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l rounds -d 'Rounds of the lab and of tuning' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand kernels" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand limits" -l threads -d 'Numbers of threads to measure (default: 1 to the CPUs this process may use)' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand limits" -l ms -d 'Milliseconds of each measurement' -r
complete -c bitnet -n "__fish_bitnet_using_subcommand limits" -l json -d 'Print one JSON object'
complete -c bitnet -n "__fish_bitnet_using_subcommand limits" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand completions" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand man" -s h -l help -d 'Print help'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "run" -d 'Generate text'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "chat" -d 'Talk with a model in the terminal'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "serve" -d 'Serve the model over HTTP, with OpenAI\'s interface and a page to chat with'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "tokenize" -d 'Show the token ids of a text'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "logits" -d 'Write the logits of every position of a token sequence'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "evaluate" -d 'Answer requests for logits, intermediate results and times, line by line (for cross-validation)'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "inspect" -d 'Show what a GGUF file holds'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "perplexity" -d 'Measure how well the model predicts a text'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "models" -d 'Fetch, verify, locate, compare and bundle models'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "convert" -d 'Make a GGUF file from a Hugging Face model directory'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "quantize" -d 'Make a GGUF file with other weight types from a GGUF file'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "bench" -d 'Measure prompt processing and generation'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "kernels" -d 'List the kernels of this build, and which one this CPU would get'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "limits" -d 'Measure what this machine can do: read bandwidth and int8 operations'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "completions" -d 'Print the completions of a shell'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "man" -d 'Write man pages'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and not __fish_seen_subcommand_from run chat serve tokenize logits evaluate inspect perplexity models convert quantize bench kernels limits completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and __fish_seen_subcommand_from models" -f -a "list" -d 'What the catalog holds, and what is here'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and __fish_seen_subcommand_from models" -f -a "fetch" -d 'Fetch models, verify them, and print their paths'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and __fish_seen_subcommand_from models" -f -a "verify" -d 'Read models again and compare their digests; without names, all that are here'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and __fish_seen_subcommand_from models" -f -a "path" -d 'Print the path of a model that is here'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and __fish_seen_subcommand_from models" -f -a "rm" -d 'Remove models from the cache'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and __fish_seen_subcommand_from models" -f -a "inspect" -d 'Show what a GGUF file holds, as `bitnet inspect`'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and __fish_seen_subcommand_from models" -f -a "diff" -d 'Compare two GGUF files by metadata and tensors'
complete -c bitnet -n "__fish_bitnet_using_subcommand help; and __fish_seen_subcommand_from models" -f -a "bundle" -d 'Write models that are here into one file, for machines without network'