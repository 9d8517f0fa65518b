#include "bitloom/lib/packing/Packing.h"

#include "bitloom/lib/support/Error.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <optional>
#include <type_traits>

namespace bitloom {
namespace {

// An order says, for a plane of `bits` bits over `block` values, where the field of value 1 << k starts (in bits from
// the start of the plane), and which constant the bit in the byte is xored with.
struct OrderRow {
  Packing::Order order;
  std::string_view name;
  int (*start)(int bits, int block, int k);
  int (*bitXor)(int bits);
};

constexpr auto consecutive = [](int bits, int, int k) { return bits << k; };
constexpr auto byteByByte = [](int bits, int block, int k) {
  int bytes = block * bits / 8;
  return 1 << k < bytes ? 8 << k : (1 << k) / bytes * bits;
};
constexpr auto noXor = [](int) { return 0; };
constexpr auto reverseFields = [](int bits) { return 8 - bits; }; // (8 / bits - 1) * bits

constexpr OrderRow orders[] = {
    {.order = Packing::Order::LowFirst, .name = "low", .start = consecutive, .bitXor = noXor},
    {.order = Packing::Order::HighFirst, .name = "high", .start = consecutive, .bitXor = reverseFields},
    {.order = Packing::Order::Planar, .name = "planar", .start = byteByByte, .bitXor = noXor},
};

const OrderRow *rowOf(Packing::Order order) {
  for (const OrderRow &row : orders)
    if (row.order == order)
      return &row;
  return nullptr;
}

std::string orderNames() {
  std::string names;
  for (const OrderRow &row : orders)
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

LinearLayout planeLayout(const OrderRow &order, int bits, int block) {
  LinearLayout::InDim column{"column", {}}, bit{"bit", {}};
  for (int k = 0; 1 << k < block; ++k) {
    int start = order.start(bits, block, k);
    column.bases.push_back({start / 8, start % 8});
  }
  for (int b = 1; b < bits; b *= 2)
    bit.bases.push_back({0, b});
  return LinearLayout({column, bit}, {{"byte", block * bits / 8}, {"bit", 8}});
}

} // namespace

std::string_view nameOf(Packing::Order order) {
  const OrderRow *row = rowOf(order);
  if (!row)
    throw UserError("expected an order of " + orderNames() + ", got " + std::to_string(static_cast<int>(order)));
  return row->name;
}

Packing::Field Packing::Plane::field(int column) const {
  LinearLayout::Vector at = layout.apply({column, 0});
  return {byteOffset + at[0], at[1] ^ bitXor};
}

void Packing::check() const {
  if (bits < 1 || bits > 8)
    throw UserError("expected 1 to 8 bits, got " + std::to_string(bits));
  if (block < 8 || block > 65536 || !std::has_single_bit(static_cast<unsigned>(block)))
    throw UserError("expected a power of two in [8, 65536] as block, got " + std::to_string(block));
  nameOf(order);
}

std::vector<Packing::Plane> Packing::planes() const {
  check();
  const OrderRow &row = *rowOf(order);
  std::vector<Plane> result;
  int shift = 0;
  for (int width = 8; width >= 1; width /= 2)
    if (bits & width) {
      result.push_back({width, shift, block * shift / 8, planeLayout(row, width, block), row.bitXor(width)});
      shift += width;
    }
  return result;
}

int64_t Packing::bytesPerRow(int64_t columns) const {
  if (columns < 0 || columns % block != 0)
    throw UserError("expected a multiple of " + std::to_string(block) + " columns, got " + std::to_string(columns));
  return columns / block * bytesPerBlock();
}

// --- Text ---

std::string Packing::toString() const {
  return "bits=" + std::to_string(bits) + ",order=" + std::string(nameOf(order)) + ",block=" + std::to_string(block);
}

Packing Packing::parse(std::string_view text) {
  auto fail = [&] {
    throw UserError("expected bits=N,order=(" + orderNames() + "),block=N, got '" + std::string(text) + "'");
  };
  std::optional<int> bits, block;
  std::optional<Order> order;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    size_t equals = item.find('=');
    if (equals == std::string_view::npos)
      fail();
    std::string_view key = item.substr(0, equals), value = item.substr(equals + 1);
    if (key == "order" && !order) {
      for (const OrderRow &row : orders)
        if (row.name == value)
          order = row.order;
      if (!order)
        throw UserError("expected an order of " + orderNames() + ", got '" + std::string(value) + "'");
      continue;
    }
    std::optional<int> &number = key == "bits" ? bits : block;
    if ((key != "bits" && key != "block") || number)
      fail();
    int parsed = 0;
    auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), parsed);
    if (code != std::errc() || end != value.data() + value.size())
      fail();
    number = parsed;
  }
  if (!bits || !order || !block)
    fail();
  Packing packing{*bits, *order, *block};
  packing.check();
  return packing;
}

std::string Packing::drawing() const {
  constexpr int shownFirst = 4, shownLast = 2, shownWhole = 8; // bytes of a plane
  size_t width = std::to_string(block - 1).size() + 3;         // of a cell, the space before it included
  auto padded = [&](const std::string &cell) { return std::string(width - cell.size(), ' ') + cell; };
  std::string text = toString() + ": " + std::to_string(bytesPerBlock()) + " bytes\n  byte";
  for (int bit = 7; bit >= 0; --bit)
    text += padded(std::to_string(bit));
  text += "\n";
  for (const Plane &plane : planes()) {
    text +=
        "  values' bits " + std::to_string(plane.shift) + " to " + std::to_string(plane.shift + plane.bits - 1) + "\n";
    LinearLayout inverse = plane.layout.invert();
    int bytes = plane.layout.outSize("byte");
    for (int byte = 0; byte < bytes; ++byte) {
      if (bytes > shownWhole && byte == shownFirst) {
        text += "   ...\n";
        byte = bytes - shownLast;
      }
      std::string number = std::to_string(plane.byteOffset + byte);
      text += std::string(number.size() < 6 ? 6 - number.size() : 0, ' ') + number;
      for (int bit = 7; bit >= 0; --bit) {
        auto source = inverse.apply({{"byte", byte}, {"bit", bit ^ plane.bitXor}}); // (bit, column)
        text += padded(std::to_string(source[1]) + "." + std::to_string(plane.shift + source[0]));
      }
      text += "\n";
    }
  }
  return text;
}

// --- Packers ---

namespace {

// A field of a block, and the part of the value in it.
struct Slot {
  int byte, shift, mask, valueShift;
};

// Slots of all columns, plane by plane.
std::vector<Slot> slotsOf(const Packing &packing) {
  std::vector<Slot> slots;
  for (const Packing::Plane &plane : packing.planes())
    for (int column = 0; column < packing.block; ++column) {
      Packing::Field field = plane.field(column);
      slots.push_back({field.byte, field.shift, plane.mask(), plane.shift});
    }
  return slots;
}

void checkSizes(const Packing &packing, size_t values, size_t bytes) {
  packing.check();
  int64_t expected = packing.bytesPerRow(static_cast<int64_t>(values));
  if (static_cast<int64_t>(bytes) != expected)
    throw UserError("expected " + std::to_string(expected) + " bytes for " + std::to_string(values) + " values of " +
                    packing.toString() + ", got " + std::to_string(bytes));
}

void checkShape(const Packing &packing, size_t values, int64_t rows, int64_t columns) {
  packing.check();
  packing.bytesPerRow(columns);
  int64_t elements = 0;
  if (rows < 0 || __builtin_mul_overflow(rows, columns, &elements) || elements != static_cast<int64_t>(values))
    throw UserError("expected " + std::to_string(rows) + " x " + std::to_string(columns) + " values, got " +
                    std::to_string(values));
}

template <typename T> void packValues(const Packing &packing, std::span<const T> values, std::span<uint8_t> bytes) {
  checkSizes(packing, values.size(), bytes.size());
  int lowest = packing.lowest(std::is_signed_v<T>), highest = packing.highest(std::is_signed_v<T>);
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] < lowest || values[i] > highest)
      throw UserError("expected a value in [" + std::to_string(lowest) + ", " + std::to_string(highest) + "] for " +
                      std::to_string(packing.bits) + " bits, got " + std::to_string(values[i]) + " at index " +
                      std::to_string(i));

  std::vector<Slot> slots = slotsOf(packing);
  size_t block = static_cast<size_t>(packing.block), bytesPerBlock = static_cast<size_t>(packing.bytesPerBlock());
  std::fill(bytes.begin(), bytes.end(), uint8_t{0});
  for (size_t i = 0; i < values.size() / block; ++i) {
    const T *from = values.data() + i * block;
    uint8_t *to = bytes.data() + i * bytesPerBlock;
    for (size_t slot = 0; slot < slots.size(); ++slot) {
      const Slot &s = slots[slot];
      to[s.byte] |= static_cast<uint8_t>((from[slot % block] >> s.valueShift & s.mask) << s.shift);
    }
  }
}

template <typename T> void unpackValues(const Packing &packing, std::span<const uint8_t> bytes, std::span<T> values) {
  checkSizes(packing, values.size(), bytes.size());
  std::vector<Slot> slots = slotsOf(packing);
  size_t block = static_cast<size_t>(packing.block), bytesPerBlock = static_cast<size_t>(packing.bytesPerBlock());
  int signBit = std::is_signed_v<T> ? 1 << (packing.bits - 1) : 0;
  for (size_t i = 0; i < values.size() / block; ++i) {
    const uint8_t *from = bytes.data() + i * bytesPerBlock;
    T *to = values.data() + i * block;
    std::fill(to, to + block, T{0});
    for (size_t slot = 0; slot < slots.size(); ++slot) {
      const Slot &s = slots[slot];
      to[slot % block] |= static_cast<T>((from[s.byte] >> s.shift & s.mask) << s.valueShift);
    }
    for (size_t j = 0; j < block; ++j) // (x ^ sign) - sign extends the sign of the low bits
      to[j] = static_cast<T>((static_cast<uint8_t>(to[j]) ^ signBit) - signBit);
  }
}

template <typename T>
std::vector<uint8_t> packMatrix(const Packing &packing, std::span<const T> values, int64_t rows, int64_t columns) {
  checkShape(packing, values.size(), rows, columns);
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * packing.bytesPerRow(columns)));
  packValues(packing, values, std::span(bytes));
  return bytes;
}

} // namespace

void pack(const Packing &packing, std::span<const int8_t> values, std::span<uint8_t> bytes) {
  packValues(packing, values, bytes);
}
void pack(const Packing &packing, std::span<const uint8_t> values, std::span<uint8_t> bytes) {
  packValues(packing, values, bytes);
}
void unpack(const Packing &packing, std::span<const uint8_t> bytes, std::span<int8_t> values) {
  unpackValues(packing, bytes, values);
}
void unpack(const Packing &packing, std::span<const uint8_t> bytes, std::span<uint8_t> values) {
  unpackValues(packing, bytes, values);
}

std::vector<uint8_t> packRows(const Packing &packing, std::span<const int8_t> values, int64_t rows, int64_t columns) {
  return packMatrix(packing, values, rows, columns);
}
std::vector<uint8_t> packRows(const Packing &packing, std::span<const uint8_t> values, int64_t rows, int64_t columns) {
  return packMatrix(packing, values, rows, columns);
}
void unpackRows(const Packing &packing, std::span<const uint8_t> bytes, int64_t rows, int64_t columns,
                std::span<int8_t> values) {
  checkShape(packing, values.size(), rows, columns);
  unpackValues(packing, bytes, values);
}
void unpackRows(const Packing &packing, std::span<const uint8_t> bytes, int64_t rows, int64_t columns,
                std::span<uint8_t> values) {
  checkShape(packing, values.size(), rows, columns);
  unpackValues(packing, bytes, values);
}

} // namespace bitloom
