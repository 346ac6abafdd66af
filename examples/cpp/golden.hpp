// The golden inputs through a session, and its outputs against the recorded float64 ones.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "npz.hpp"

constexpr double TIE = 1e-6;  // of the scale: reference values that are nearer are equal

constexpr double EPSILON = std::numeric_limits<float>::epsilon();
constexpr double NOISE_FACTOR = 16;  // times the noise that was measured: this runtime's own was not

using Arrays = std::map<std::string, Array>;

// What was found of one output: the |y - r| that is the largest share of what is allowed there; top-1 of samples x classes only.
struct Judgement {
    std::string output;
    double apart = 0, allowed = 0, share = 0, snr_db = std::numeric_limits<double>::infinity();
    std::int64_t held = 0, agreeing = 0;
    bool has_classes = false, passed = true;
};

inline Feed batch_of(const Bundle& bundle, const Arrays& arrays, std::int64_t first, std::int64_t batch) {
    Feed feed;
    for (const auto& spec : bundle.inputs) {
        const auto& array = arrays.at("input." + spec.name);
        std::string& bytes = feed[spec.name];
        for (std::int64_t sample = first; sample < first + batch; ++sample)  // what lacks in the last batch is its first sample
            bytes.append(array.bytes, static_cast<std::size_t>(sample < bundle.samples ? sample : first) * array.sample_bytes(),
                         array.sample_bytes());
    }
    return feed;
}

// Every golden sample, in batches of ``batch``.
template <typename Session>
Outputs run_golden(Session& session, const Bundle& bundle, const Arrays& arrays, std::int64_t batch) {
    Outputs all;
    for (std::int64_t first = 0; first < bundle.samples; first += batch) {
        Feed feed = batch_of(bundle, arrays, first, batch);
        const auto real = std::min(batch, bundle.samples - first);
        for (const auto& [name, values] : session.outputs_of(feed, batch))
            all[name].insert(all[name].end(), values.begin(),
                             values.begin() + static_cast<std::ptrdiff_t>(values.size() / batch * real));
    }
    return all;
}

// |y - r|: 0 for equal infinities, never small for a NaN.
inline double apart(double y, double r) { return y == r ? 0 : std::abs(y - r); }

// Where the channels of an output lie: an element's is (its place / after) % count.
struct Channels {
    std::int64_t count = 1, after = 1;
    std::int64_t of(std::int64_t place) const { return place / after % count; }
};

inline Channels channels_of(const Bundle& bundle, const std::string& output, const Array& reference, const Arrays& evidence) {
    const auto axis = bundle.channel_axes.find(output);
    const auto axes = static_cast<std::int64_t>(reference.shape.size());
    if (axis == bundle.channel_axes.end() || !evidence.count("floor." + output) || axis->second < 1 || axis->second >= axes)
        return {};
    Channels channels{reference.shape[static_cast<std::size_t>(axis->second)], 1};
    for (auto later = axis->second + 1; later < axes; ++later) channels.after *= reference.shape[static_cast<std::size_t>(later)];
    return channels;
}

// The largest |y - r| that is allowed in each channel of part p, samples ``begin`` to ``end``:
//     min(16 * max(floor[p, c], eps * max|r| of the channel), rtol * max|r|), without measured noise rtol * max|r|
struct Limits {
    std::vector<double> of;
    double scale = 0;
};

inline Limits limits_of(const std::vector<double>& r, std::int64_t begin, std::int64_t end, Channels channels, double rtol,
                        const double* floors) {
    std::vector<double> scales(static_cast<std::size_t>(channels.count));
    for (std::int64_t i = begin; i < end; ++i) {
        auto& scale = scales[static_cast<std::size_t>(channels.of(i))];
        if (std::isfinite(r[i])) scale = std::max(scale, std::abs(r[i]));
    }
    Limits limits{scales, *std::max_element(scales.begin(), scales.end())};
    for (std::size_t c = 0; c < scales.size(); ++c) {
        limits.of[c] = rtol * limits.scale;
        if (floors) limits.of[c] = std::min(limits.of[c], NOISE_FACTOR * std::max(floors[c], EPSILON * scales[c]));
    }
    return limits;
}

// Whether the largest output is where the reference has its largest, or at a value that ties with it: rounding may exchange them.
inline bool same_top1(const double* y, const double* r, std::int64_t classes, const Limits& limits, bool by_limits) {
    const auto best = std::max_element(r, r + classes) - r, chosen = std::max_element(y, y + classes) - y;
    const auto blur = [&](std::ptrdiff_t place) {
        const double limit = limits.of[limits.of.size() == 1 ? 0 : static_cast<std::size_t>(place)];
        return std::max(by_limits ? limit : 0, TIE / 2 * limits.scale);
    };
    return best == chosen || r[best] - r[chosen] <= blur(best) + blur(chosen);
}

inline void judge_part(Judgement& found, const std::vector<double>& y, const std::vector<double>& r, std::int64_t begin,
                       std::int64_t end, Channels channels, const Limits& limits) {
    for (std::int64_t i = begin; i < end; ++i) {
        const double distance = apart(y[i], r[i]), limit = limits.of[static_cast<std::size_t>(channels.of(i))];
        const double share = distance == 0 ? 0 : distance / limit;
        if (!(share <= 1)) found.passed = false;
        if (!(share <= found.share) || found.allowed == 0) found.share = share, found.apart = distance, found.allowed = limit;
    }
}

inline double snr_db(const std::vector<double>& y, const std::vector<double>& r, std::int64_t count) {
    double signal = 0, noise = 0;
    for (std::int64_t i = 0; i < count; ++i) signal += r[i] * r[i], noise += apart(y[i], r[i]) * apart(y[i], r[i]);
    return noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
}

inline Judgement judged(const Bundle& bundle, const std::string& name, const std::vector<double>& y, const Array& reference,
                        const Arrays& evidence) {
    Judgement found{name};
    const auto r = reference.doubles();
    const auto& bar = bundle.bar;
    if (y.size() != r.size() || y.empty()) return found.passed = false, found;
    const std::int64_t size = static_cast<std::int64_t>(r.size()) / bundle.samples;
    const auto channels = channels_of(bundle, name, reference, evidence);
    const auto floors = evidence.count("floor." + name) ? evidence.at("floor." + name).doubles() : std::vector<double>{};
    const bool measured = floors.size() == bundle.parts.size() * static_cast<std::size_t>(channels.count);
    found.has_classes = reference.shape.size() == 2 && size > 1;
    for (std::size_t part = 0; part < (bar.first_part_only ? 1 : bundle.parts.size()); ++part) {
        const std::int64_t begin = found.held, end = begin + bundle.parts[part];
        const double* noise = measured ? floors.data() + part * static_cast<std::size_t>(channels.count) : nullptr;
        const auto limits = limits_of(r, begin * size, end * size, channels, bar.rtol, noise);
        judge_part(found, y, r, begin * size, end * size, channels, limits);
        for (std::int64_t sample = begin; found.has_classes && sample < end; ++sample)
            found.agreeing += same_top1(y.data() + sample * size, r.data() + sample * size, size, limits, !bar.asks_snr);
        found.held = end;
    }
    found.snr_db = snr_db(y, r, bundle.parts[0] * size);
    if (bar.asks_snr && !(found.snr_db >= bar.snr_db)) found.passed = false;
    if (found.has_classes && static_cast<double>(found.agreeing) < bar.top1 * static_cast<double>(found.held))
        found.passed = false;
    return found;
}

// Raises BadInput unless golden.npz has the arrays that the manifest describes.
inline void check_arrays(const Bundle& bundle, const Arrays& arrays) {
    std::int64_t sum = 0;
    bool whole = true;
    for (const auto samples : bundle.parts) whole = whole && samples >= 1 && samples <= bundle.samples, sum += samples;
    if (sum != bundle.samples || !whole) throw BadInput("the golden parts of manifest.json do not add up; get the bundle again");
    const auto check = [&](const std::string& name) {
        const auto found = arrays.find(name);
        if (found == arrays.end() || found->second.shape.empty() || found->second.shape[0] != bundle.samples)
            throw BadInput("golden.npz lacks " + name + " of " + std::to_string(bundle.samples) +
                           " samples; get the bundle again");
    };
    for (const auto& spec : bundle.inputs) check("input." + spec.name);
    for (const auto& spec : bundle.outputs) check("float64." + spec.name);
}
