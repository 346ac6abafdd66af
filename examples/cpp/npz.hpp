// Reading .npz, which is a zip file of arrays as numpy stores them (numpy.lib.format, versions 1 to 3; little-endian, C order).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "stb_image.h"  // it inflates, too

struct Array {
    std::string dtype;  // as numpy writes it: <f4, <f8, <i8, |u1, ...
    std::vector<std::int64_t> shape;
    std::string bytes;

    std::int64_t count() const {
        std::int64_t product = 1;
        for (auto size : shape) product *= size;
        return product;
    }
    // Bytes of one sample, the first axis being samples.
    std::size_t sample_bytes() const {
        return shape.empty() || !shape[0] ? 0 : bytes.size() / static_cast<std::size_t>(shape[0]);
    }

    std::vector<double> doubles() const {
        if (dtype != "<f8") throw BadInput("an array of the bundle is " + dtype + " and not float64; get the bundle again");
        std::vector<double> values(bytes.size() / sizeof(double));
        std::memcpy(values.data(), bytes.data(), values.size() * sizeof(double));
        return values;
    }
};

namespace detail {

constexpr std::size_t MOST = std::size_t{1} << 31;  // bytes of one array; stb_image counts in int

template <typename Number>
Number number_at(const std::string& bytes, std::size_t place) {
    Number value;
    if (place > bytes.size() || bytes.size() - place < sizeof(Number))
        throw BadInput("an .npz file of the bundle is cut off; get the bundle again");
    std::memcpy(&value, bytes.data() + place, sizeof(Number));
    return value;
}

inline std::uint32_t crc32(const std::string& bytes) {
    static const auto table = [] {
        std::array<std::uint32_t, 256> rows{};
        for (std::uint32_t byte = 0; byte < 256; ++byte) {
            rows[byte] = byte;
            for (int bit = 0; bit < 8; ++bit) rows[byte] = rows[byte] & 1 ? 0xEDB88320u ^ (rows[byte] >> 1) : rows[byte] >> 1;
        }
        return rows;
    }();
    std::uint32_t sum = ~0u;
    for (unsigned char byte : bytes) sum = table[(sum ^ byte) & 0xFF] ^ (sum >> 8);
    return ~sum;
}

// A member of the zip file, by its entry in the central directory at ``entry``.
inline std::string member(const std::string& zip, std::size_t entry) {
    const auto method = number_at<std::uint16_t>(zip, entry + 10);
    const auto packed = number_at<std::uint32_t>(zip, entry + 20), size = number_at<std::uint32_t>(zip, entry + 24);
    const auto local = number_at<std::uint32_t>(zip, entry + 42);
    const std::size_t begin =
        std::size_t{local} + 30 + number_at<std::uint16_t>(zip, local + 26) + number_at<std::uint16_t>(zip, local + 28);
    if (packed >= MOST || size >= MOST || begin > zip.size() || zip.size() - begin < packed)
        throw BadInput("an .npz file of the bundle is cut off, or larger than this program reads (2 GiB an array)");
    std::string bytes = method == 0 ? zip.substr(begin, packed) : std::string(size, '\0');
    // stb_image reads ahead by what closes a zlib stream, which a zip file lacks: other parts of the file follow there
    const auto length = static_cast<int>(packed + std::min<std::size_t>(4, zip.size() - begin - packed));
    if (method == 8 && stbi_zlib_decode_noheader_buffer(bytes.data(), static_cast<int>(size), zip.data() + begin, length) !=
                           static_cast<int>(size))
        throw BadInput("an .npz file of the bundle cannot be unpacked; get the bundle again");
    if (bytes.size() != size || crc32(bytes) != number_at<std::uint32_t>(zip, entry + 16))
        throw BadInput("an .npz file of the bundle is damaged; get the bundle again");
    return bytes;
}

// The text between two marks of a header like {'descr': '<f4', 'fortran_order': False, 'shape': (84, 1, 28, 28), }.
inline std::string between(const std::string& text, const std::string& begin, char end) {
    const auto start = text.find(begin);
    const auto stop = start == std::string::npos ? start : text.find(end, start + begin.size());
    if (stop == std::string::npos) throw BadInput("an .npz file of the bundle holds an array that this program does not read");
    return text.substr(start + begin.size(), stop - start - begin.size());
}

inline Array array_of(const std::string& npy) {
    if (npy.compare(0, 6, "\x93NUMPY") != 0) throw BadInput("an .npz file of the bundle holds something that is no array");
    const bool old = number_at<std::uint8_t>(npy, 6) == 1;
    const std::size_t length = old ? number_at<std::uint16_t>(npy, 8) : number_at<std::uint32_t>(npy, 8);
    const std::size_t begin = (old ? 10 : 12) + length;
    if (begin > npy.size()) throw BadInput("an .npz file of the bundle is cut off; get the bundle again");
    const std::string header = npy.substr(0, begin);
    Array array{between(header, "'descr': '", '\''), {}, npy.substr(begin)};
    if (between(header, "'fortran_order': ", ',') != "False" || array.dtype[0] == '>')
        throw BadInput("an .npz file of the bundle holds an array in an order that this program does not read");
    std::istringstream sizes(between(header, "'shape': (", ')'));
    for (std::string size; std::getline(sizes, size, ',');)
        if (size.find_first_of("0123456789") != std::string::npos) array.shape.push_back(std::stoll(size));
    const auto width = static_cast<std::int64_t>(std::stoul(array.dtype.substr(2)));
    if (static_cast<std::int64_t>(array.bytes.size()) != array.count() * width)
        throw BadInput("an .npz file of the bundle is damaged; get the bundle again");
    return array;
}

}  // namespace detail

// Every array of the file, by its name; raises BadInput for whatever is no such file.
inline std::map<std::string, Array> read_npz(const std::filesystem::path& path) {
    using namespace detail;
    const std::string zip = read_file(path);
    const auto end = zip.rfind("PK\x05\x06");
    if (end == std::string::npos) throw BadInput(path.string() + " is no .npz file; get the bundle again");
    std::map<std::string, Array> arrays;
    std::size_t entry = number_at<std::uint32_t>(zip, end + 16);
    for (auto left = number_at<std::uint16_t>(zip, end + 10); left; --left) {
        if (number_at<std::uint32_t>(zip, entry) != 0x02014b50)
            throw BadInput(path.string() + " is damaged; get the bundle again");
        const auto length = number_at<std::uint16_t>(zip, entry + 28);
        const std::string name = zip.substr(entry + 46, length);
        if (name.size() > 4) arrays[name.substr(0, name.size() - 4)] = array_of(member(zip, entry));
        entry += 46u + length + number_at<std::uint16_t>(zip, entry + 30) + number_at<std::uint16_t>(zip, entry + 32);
    }
    return arrays;
}
