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
  int (*start)(int bits, int block, int k, int widest);
  int (*bitXor)(int bits);
  int widest = 0; // plane of the values, of which this one is a part; 0: the widest of the packing
};

constexpr auto consecutive = [](int bits, int, int k, int) { return bits << k; };
constexpr auto byteByByte = [](int bits, int block, int k, int) {
  int bytes = block * bits / 8;
  return 1 << k < bytes ? 8 << k : (1 << k) / bytes * bits;
};
constexpr auto laneByLane = [](int bits, int block, int k, int widest) {
  if (k == 0)
    return 16;
  if (k <= 2)
    return block * bits / 8 << k;
  // Of the lane's pairs: as far apart as the widest plane's in one of its words, between them those of the next words.
  int pair = k - 3, apart = std::countr_zero(unsigned(16 / widest)), inWord = std::countr_zero(unsigned(16 / bits));
  if (pair < inWord)
    return pair < apart ? widest << pair : bits << (pair - apart);
  return 2 * (bits << pair); // a word's upper half is the other values'
};
constexpr auto noXor = [](int) { return 0; };
constexpr auto reverseFields = [](int bits) { return 8 - bits; }; // (8 / bits - 1) * bits

constexpr OrderRow orders[] = {
    {.order = Packing::Order::LowFirst, .name = "low", .start = consecutive, .bitXor = noXor},
    {.order = Packing::Order::HighFirst, .name = "high", .start = consecutive, .bitXor = reverseFields},
    {.order = Packing::Order::Planar, .name = "planar", .start = byteByByte, .bitXor = noXor},
    {.order = Packing::Order::Fragments, .name = "fragments", .start = laneByLane, .bitXor = noXor},
    {.order = Packing::Order::FragmentsOf2, .name = "fragments2", .start = laneByLane, .bitXor = noXor, .widest = 2},
    {.order = Packing::Order::FragmentsOf4, .name = "fragments4", .start = laneByLane, .bitXor = noXor, .widest = 4},
    {.order = Packing::Order::Columns, .name = "columns", .start = nullptr, .bitXor = nullptr}, // Columns.cpp
};
constexpr std::string_view biasNames[] = {"none", "low", "all"};

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

LinearLayout planeLayout(const OrderRow &order, int bits, int block, int widest) {
  LinearLayout::InDim column{"column", {}}, bit{"bit", {}};
  for (int k = 0; 1 << k < block; ++k) {
    int start = order.start(bits, block, k, widest);
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

std::string_view nameOf(Packing::Bias bias) { return biasNames[int(bias)]; }

Packing::Field Packing::Plane::field(int column) const {
  LinearLayout::Vector at = layout.apply({column, 0});
  return {byteOffset + at[0], at[1] ^ bitXor};
}

void Packing::check() const {
  if (bits < 1 || bits > 8)
    throw UserError("expected 1 to 8 bits, got " + std::to_string(bits));
  nameOf(order);
  if (order == Order::Columns)
    return checkColumns();
  if (lanes != 1 || bias != Bias::None)
    throw UserError("expected lanes and bias with order=columns only, got order=" + std::string(nameOf(order)));
  if (rows != 1 && order != Order::Fragments)
    throw UserError("expected rows with order=columns or fragments only, got order=" + std::string(nameOf(order)));
  if (rows < 1 || rows > 4096 || !std::has_single_bit(static_cast<unsigned>(rows)))
    throw UserError("expected a power of two in [1, 4096] as rows, got " + std::to_string(rows));
  if (block < 8 || block > 65536 || !std::has_single_bit(static_cast<unsigned>(block)))
    throw UserError("expected a power of two in [8, 65536] as block, got " + std::to_string(block));
  const OrderRow &row = *rowOf(order);
  if ((order == Order::Fragments || row.widest) && block < 128)
    throw UserError("expected a block of 128 or more with order=" + std::string(row.name) + ", got " +
                    std::to_string(block));
  if (row.widest && bits >= row.widest)
    throw UserError("expected less than " + std::to_string(row.widest) + " bits with order=" + std::string(row.name) +
                    ", got " + std::to_string(bits));
}

std::vector<Packing::Plane> Packing::planes() const {
  check();
  if (order == Order::Columns || rows > 1)
    throw InternalError("expected a packing of a row's planes, got " + toString(), "");
  const OrderRow &row = *rowOf(order);
  std::vector<Plane> result;
  const int widest = row.widest ? row.widest : int(std::bit_floor(unsigned(bits)));
  int shift = 0;
  for (int width = 8; width >= 1; width /= 2)
    if (bits & width) {
      result.push_back({width, shift, block * shift / 8, planeLayout(row, width, block, widest), row.bitXor(width)});
      shift += width;
    }
  return result;
}

Packing Packing::packingOf(const Plane &plane) const {
  Packing own{plane.bits, order, block};
  const int widest = int(std::bit_floor(unsigned(bits)));
  if (order == Order::Fragments && plane.bits < widest)
    own.order = widest == 2 ? Order::FragmentsOf2 : Order::FragmentsOf4;
  return own;
}

int64_t Packing::bytesPerRow(int64_t columns) const {
  if (columns < 0 || columns % block != 0)
    throw UserError("expected a multiple of " + std::to_string(block) + " columns, got " + std::to_string(columns));
  return columns / block * bytesPerBlock();
}

// --- Text ---

std::string Packing::toString() const {
  std::string text =
      "bits=" + std::to_string(bits) + ",order=" + std::string(nameOf(order)) + ",block=" + std::to_string(block);
  if (order == Order::Columns || rows > 1)
    text += ",rows=" + std::to_string(rows);
  if (order == Order::Columns)
    text += ",lanes=" + std::to_string(lanes) + ",bias=" + std::string(nameOf(bias));
  return text;
}

Packing Packing::parse(std::string_view text) {
  auto fail = [&] {
    throw UserError("expected bits=N,order=(" + orderNames() +
                    "),block=N and, of columns, rows=N,lanes=N,bias=(none, low, all), got '" + std::string(text) + "'");
  };
  struct Number {
    std::string_view key;
    std::optional<int> value;
  };
  Number numbers[] = {{"bits", {}}, {"block", {}}, {"rows", {}}, {"lanes", {}}};
  std::optional<Order> order;
  std::optional<Bias> bias;
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
    if (key == "bias" && !bias) {
      for (int i = 0; i < 3; ++i)
        if (biasNames[i] == value)
          bias = Bias(i);
      if (!bias)
        fail();
      continue;
    }
    auto number = std::find_if(std::begin(numbers), std::end(numbers), [&](const Number &n) { return n.key == key; });
    if (number == std::end(numbers) || number->value)
      fail();
    int parsed = 0;
    auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), parsed);
    if (code != std::errc() || end != value.data() + value.size())
      fail();
    number->value = parsed;
  }
  if (!numbers[0].value || !order || !numbers[1].value)
    fail();
  Packing packing{.bits = *numbers[0].value, .order = *order, .block = *numbers[1].value};
  packing.rows = numbers[2].value.value_or(1);
  packing.lanes = numbers[3].value.value_or(1);
  packing.bias = bias.value_or(Bias::None);
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
  Packing first = *this; // row
  first.rows = 1;
  for (const Plane &plane : first.planes()) {
    text +=
        "  values' bits " + std::to_string(plane.shift) + " to " + std::to_string(plane.shift + plane.bits - 1) + "\n";
    LinearLayout inverse = plane.layout.invert();
    int bytes = plane.layout.outSize("byte");
    for (int byte = 0; byte < bytes; ++byte) {
      if (bytes > shownWhole && byte == shownFirst) {
        text += "   ...\n";
        byte = bytes - shownLast;
      }
      std::string number = std::to_string(plane.byteOffset * rows + byte);
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

std::vector<Packing::Piece> Packing::pieces() const {
  check();
  if (order == Order::Columns)
    return columnPieces();
  std::vector<Piece> result;
  Packing one = *this;
  one.rows = 1;
  for (const Plane &plane : one.planes())
    for (int row = 0; row < rows; ++row)
      for (int column = 0; column < block; ++column) {
        const Field at = plane.field(column);
        const int before = plane.byteOffset * (rows - 1) + row * block * plane.bits / 8;
        result.push_back({row, column, before + at.byte, at.shift, plane.bits, plane.shift});
      }
  return result;
}

int Packing::flipped(int row) const {
  if (bias == Bias::None)
    return 0;
  Unit all = unit();
  return all.isBiased(row / lanes % all.values, bias) ? 1 << (bits - 1) : 0;
}

} // namespace bitloom
