// What every program here says: whether the golden outputs pass in a session, and how long a run takes. A session is any class
// with
//     run(Feed&, std::int64_t batch)                 done when it returns
//     Outputs outputs_of(Feed&, std::int64_t batch)
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "golden.hpp"
#include "npz.hpp"

constexpr int WARM_UP = 20;

// A text of somebody else's on one line, without control characters that a terminal would obey.
inline std::string visible(const std::string& text) {
    std::string shown;
    for (const unsigned char byte : text) shown += byte < 0x20 || byte == 0x7F ? '?' : static_cast<char>(byte);
    return shown;
}

template <typename Session>
bool golden_outputs_pass(Session& session, const Bundle& bundle, const Arrays& arrays) {
    const Arrays evidence = bundle.evidence.empty() ? Arrays{} : read_npz(bundle.evidence);
    std::vector<std::int64_t> batches{bundle.batch()};
    if (!bundle.inputs[0].batch) batches.push_back(7);  // a batch axis that is free in name only shows
    bool passed = true;
    for (const auto batch : batches) {
        const auto outputs = run_golden(session, bundle, arrays, batch);
        for (const auto& spec : bundle.outputs) {
            const auto found = judged(bundle, spec.name, outputs.at(spec.name), arrays.at("float64." + spec.name), evidence);
            std::printf("%s in batches of %lld: off by %.1e where %.1e is allowed", visible(spec.name).c_str(),
                        static_cast<long long>(batch), found.apart, found.allowed);
            if (found.has_classes)
                std::printf("; same top-1 in %lld of %lld", static_cast<long long>(found.agreeing),
                            static_cast<long long>(found.held));
            if (bundle.bar.asks_snr) std::printf("; SNR %.1f dB, %.1f dB are asked", found.snr_db, bundle.bar.snr_db);
            std::printf(": %s\n", found.passed ? "pass" : "FAIL");
            passed = passed && found.passed;
        }
    }
    return passed;
}

inline double milliseconds_since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

template <typename Session>
void time_runs(Session& session, const Bundle& bundle, const Arrays& arrays, int runs) {
    Feed feed = batch_of(bundle, arrays, 0, bundle.batch());
    for (int i = 0; i < WARM_UP; ++i) session.run(feed, bundle.batch());
    std::vector<double> times;
    for (int i = 0; i < runs; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        session.run(feed, bundle.batch());
        times.push_back(milliseconds_since(begin));
    }
    std::sort(times.begin(), times.end());
    std::printf("batch %lld: median %.4f ms, P90 %.4f ms of %d runs\n", static_cast<long long>(bundle.batch()),
                times[times.size() / 2], times[std::min(times.size() - 1, times.size() * 9 / 10)], runs);
}
