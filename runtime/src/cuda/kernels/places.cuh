// What the kernels of attention are told about rows.
#pragma once
#include "common.cuh"

// The rows of one launch: which sequence each is of, and at which position.
struct RowPlaces {
    const int* position;  // [m]
    const int* sequence;  // [m], into `pages`
    const int* pages;     // [sequences, max_pages]
    int max_pages;
};

struct Attend {
    const __half* q;      // [m, heads * head_dim]
    float* out;           // [m, heads * head_dim]
    float* partial;       // [m, kv heads * parts of a group, splits, GROUP * MAX_DIM + 2 * GROUP]
    RowPlaces rows;
    Cache cache;
    int layer, heads;
    int splits, run;      // positions of one run
    int first, count;     // prefill: the rows of one sequence, at consecutive positions
};

static_assert(sizeof(Attend) == 104, "cuda::params has the same");

