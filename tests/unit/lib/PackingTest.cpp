#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <string>

using namespace bitloom;
using Order = Packing::Order;
using Bytes = std::vector<uint8_t>;

namespace {

constexpr Order allOrders[] = {Order::LowFirst, Order::HighFirst, Order::Planar, Order::Fragments};

template <typename Check> void forEveryPacking(Check check) {
  for (int bits = 1; bits <= 8; ++bits)
    for (Order order : allOrders)
      for (int block = order == Order::Fragments ? 128 : 8; block <= 256; block *= 2) {
        Packing packing{bits, order, block};
        SCOPED_TRACE(packing.toString());
        check(packing);
      }
}

Bytes packed(const Packing &packing, const std::vector<uint8_t> &values) {
  return packRows(packing, values, 1, static_cast<int64_t>(values.size()));
}

std::string messageOf(auto action) {
  try {
    action();
  } catch (const UserError &error) {
    return error.what();
  }
  return "no error";
}

// Every code in every column of a block, packed and unpacked again.
template <typename T> void roundTrip(const Packing &packing) {
  constexpr bool isSigned = std::is_signed_v<T>;
  int codes = 1 << packing.bits, lowest = packing.lowest(isSigned);
  EXPECT_EQ(packing.highest(isSigned) - lowest + 1, codes);
  std::vector<T> values;
  for (int first = 0; first < codes; ++first)
    for (int column = 0; column < packing.block; ++column)
      values.push_back(static_cast<T>(lowest + (first + column * 37) % codes));
  Bytes bytes = packRows(packing, values, codes, packing.block);
  ASSERT_EQ(bytes.size(), static_cast<size_t>(codes * packing.block * packing.bits / 8));
  std::vector<T> again(values.size(), T{1});
  unpackRows(packing, bytes, codes, packing.block, again);
  ASSERT_EQ(again, values);

  // The formula in the header reads the same.
  auto planes = packing.planes();
  for (int column = 0; column < packing.block; ++column) {
    int code = 0;
    for (const auto &plane : planes) {
      auto field = plane.field(column);
      code |= (bytes[static_cast<size_t>(field.byte)] >> field.shift & plane.mask()) << plane.shift;
    }
    ASSERT_EQ(code, values[static_cast<size_t>(column)] & (codes - 1));
  }
}

// Vectors of bytes of several shapes, with one unit and with several in a block.
template <typename Check> void forEveryColumnsPacking(Check check) {
  struct Vector {
    int lanes, block;
  };
  for (int bits = 1; bits <= 8; ++bits)
    for (auto [lanes, block] : {Vector{1, 1}, Vector{2, 8}, Vector{4, 4}, Vector{16, 1}, Vector{16, 4}})
      for (int units : {1, 4})
        for (auto bias : {Packing::Bias::None, Packing::Bias::Low, Packing::Bias::All}) {
          if (bias == Packing::Bias::Low && bits == 8)
            continue;
          Packing packing{.bits = bits, .order = Order::Columns, .block = block, .lanes = lanes, .bias = bias};
          packing.rows = packing.unit().values * lanes * units;
          SCOPED_TRACE(packing.toString());
          packing.check();
          check(packing);
        }
}

template <typename T> void roundTripColumns(const Packing &packing) {
  const int codes = 1 << packing.bits, lowest = packing.lowest(std::is_signed_v<T>);
  const int64_t rows = 3 * packing.rows, columns = 5 * packing.block;
  std::vector<T> values;
  for (int64_t i = 0; i < rows * columns; ++i)
    values.push_back(static_cast<T>(lowest + i * 37 % codes));
  Bytes bytes = packRows(packing, values, rows, columns);
  ASSERT_EQ(bytes.size(), static_cast<size_t>(rows * columns * packing.bits / 8));
  std::vector<T> again(values.size(), T{1});
  unpackRows(packing, bytes, rows, columns, again);
  ASSERT_EQ(again, values);
}

} // namespace

// Planes of all rows follow each other, each row's as it is by itself.
TEST(Packing, RowsOfFragmentsComeBack) {
  for (int bits = 1; bits <= 8; ++bits)
    for (int together : {1, 2, 8, 64}) {
      const Packing packing{bits, Order::Fragments, 128, together}, alone{bits, Order::Fragments, 128};
      SCOPED_TRACE(packing.toString());
      EXPECT_EQ(Packing::parse(packing.toString()), packing);
      const int64_t rows = 3 * together, columns = 5 * 128;
      std::vector<int8_t> values;
      for (int64_t i = 0; i < rows * columns; ++i)
        values.push_back(int8_t(packing.lowest(true) + i * 37 % (1 << bits)));
      const Bytes bytes = packRows(packing, values, rows, columns), each = packRows(alone, values, rows, columns);
      ASSERT_EQ(bytes.size(), each.size());
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t block = 0; block < 5; ++block)
          for (const Packing::Plane &plane : alone.planes()) {
            const int64_t size = 16 * plane.bits, panel = row / together * 5 + block;
            const int64_t from = (row * 5 + block) * alone.bytesPerBlock() + plane.byteOffset,
                          to = panel * packing.bytesPerBlock() + together * plane.byteOffset + row % together * size;
            ASSERT_TRUE(std::equal(&bytes[size_t(to)], &bytes[size_t(to)] + size, &each[size_t(from)]));
          }
      std::vector<int8_t> again(values.size());
      unpackRows(packing, bytes, rows, columns, again);
      ASSERT_EQ(again, values);
      std::vector<int> used(size_t(packing.bytesPerBlock()));
      for (const Packing::Piece &piece : packing.pieces()) {
        const int value = values[size_t(piece.row * columns + piece.column)] >> piece.valueShift & piece.mask();
        ASSERT_EQ(bytes[size_t(piece.byte)] >> piece.shift & piece.mask(), value);
        used[size_t(piece.byte)] |= piece.mask() << piece.shift;
      }
      EXPECT_EQ(used, std::vector<int>(used.size(), 0xff));
    }
  EXPECT_EQ(messageOf([] { Packing{4, Order::Planar, 128, 8}.check(); }),
            "expected rows with order=columns or fragments only, got order=planar");
  EXPECT_EQ(messageOf([] { Packing{4, Order::Fragments, 128, 3}.check(); }),
            "expected a power of two in [1, 4096] as rows, got 3");
}

TEST(Packing, RowsInColumnsComeBack) {
  forEveryColumnsPacking([](const Packing &packing) {
    EXPECT_EQ(Packing::parse(packing.toString()), packing);
    roundTripColumns<int8_t>(packing);
    roundTripColumns<uint8_t>(packing);
  });
}

TEST(Packing, ColumnsUseEveryBitOnce) {
  forEveryColumnsPacking([](const Packing &packing) {
    std::vector<int> used(static_cast<size_t>(packing.bytesPerBlock())), known(size_t(packing.rows * packing.block));
    for (const Packing::Piece &piece : packing.pieces()) {
      int &byte = used[size_t(piece.byte)], &value = known[size_t(piece.row * packing.block + piece.column)];
      EXPECT_EQ(byte & piece.mask() << piece.shift, 0);
      EXPECT_EQ(value & piece.mask() << piece.valueShift, 0);
      byte |= piece.mask() << piece.shift;
      value |= piece.mask() << piece.valueShift;
    }
    EXPECT_EQ(used, std::vector<int>(used.size(), 0xff));
    EXPECT_EQ(known, std::vector<int>(known.size(), (1 << packing.bits) - 1));
  });
}

// Two rows by two columns of four bits in a byte: rows share bytes, columns do not; the lower row is biased.
TEST(Packing, ColumnsByHand) {
  Packing packing = Packing::parse("bits=4,order=columns,block=2,rows=2,lanes=1,bias=low");
  const std::vector<int8_t> values = {1, -2, 3, -4};
  EXPECT_EQ(packRows(packing, values, 2, 2), (Bytes{0x39, 0xc6}));
}

TEST(Packing, IllegalColumns) {
  auto message = [](const char *text) { return messageOf([&] { Packing::parse(text).check(); }); };
  EXPECT_EQ(message("bits=4,order=columns,block=3,rows=32,lanes=4,bias=none"),
            "expected a power of two in [1, 16] as block of order=columns, got 3");
  EXPECT_EQ(message("bits=4,order=columns,block=4,rows=4,lanes=4,bias=none"),
            "expected a power of two that is a multiple of 8 and at most 4096 as rows, got 4");
  EXPECT_EQ(message("bits=8,order=columns,block=4,rows=32,lanes=4,bias=low"),
            "expected bias=low with less than 8 bits, got 8");
}

TEST(Packing, RoundTripsEveryCodeInEveryColumn) {
  forEveryPacking([](const Packing &packing) {
    roundTrip<int8_t>(packing);
    roundTrip<uint8_t>(packing);
  });
}

TEST(Packing, UsesEveryBitOfABlockOnce) {
  forEveryPacking([](const Packing &packing) {
    std::set<int64_t> used;
    int covered = 0;
    for (const auto &plane : packing.planes()) {
      EXPECT_TRUE(plane.layout.isInvertible());
      EXPECT_EQ(plane.shift, covered);
      covered += plane.bits;
      for (int column = 0; column < packing.block; ++column)
        for (int bit = 0; bit < plane.bits; ++bit) {
          auto at = plane.layout.apply({{"column", column}, {"bit", bit}});
          int byte = plane.byteOffset + at[0], position = at[1] ^ plane.bitXor;
          ASSERT_TRUE(used.insert(byte * 8 + position).second);
          // A field is contiguous: what field() says holds for all its bits.
          ASSERT_EQ((Packing::Field{byte, position - bit}), plane.field(column));
        }
    }
    EXPECT_EQ(covered, packing.bits);
    EXPECT_EQ(used.size(), static_cast<size_t>(packing.bytesPerBlock() * 8));
    EXPECT_EQ(*used.begin(), 0);
    EXPECT_EQ(*used.rbegin(), packing.bytesPerBlock() * 8 - 1);
  });
}

TEST(Packing, FieldsSitWhereTheTableSays) {
  forEveryPacking([](const Packing &packing) {
    for (const auto &plane : packing.planes()) {
      int p = plane.bits, perByte = 8 / p, bytes = packing.block * p / 8;
      for (int j = 0; j < packing.block; ++j) {
        auto field = plane.field(j);
        int byte = field.byte - plane.byteOffset;
        switch (packing.order) {
        case Order::LowFirst:
          ASSERT_EQ(byte, j * p / 8);
          ASSERT_EQ(field.shift, j % perByte * p);
          break;
        case Order::HighFirst:
          ASSERT_EQ(byte, j * p / 8);
          ASSERT_EQ(field.shift, (perByte - 1 - j % perByte) * p);
          break;
        case Order::Planar:
          ASSERT_EQ(byte, j % bytes);
          ASSERT_EQ(field.shift, j / bytes * p);
          break;
        }
      }
    }
  });
}

// Bytes worked out by hand.
TEST(Packing, KnownBytes) {
  Bytes ascending(8);
  std::iota(ascending.begin(), ascending.end(), uint8_t{1}); // 1 … 8
  EXPECT_EQ(packed({4, Order::LowFirst, 8}, ascending), (Bytes{0x21, 0x43, 0x65, 0x87}));
  EXPECT_EQ(packed({4, Order::HighFirst, 8}, ascending), (Bytes{0x12, 0x34, 0x56, 0x78}));
  EXPECT_EQ(packed({4, Order::Planar, 8}, ascending), (Bytes{0x51, 0x62, 0x73, 0x84}));

  Bytes ones{1, 0, 0, 0, 0, 0, 1, 1};
  EXPECT_EQ(packed({1, Order::LowFirst, 8}, ones), Bytes{0b11000001});
  EXPECT_EQ(packed({1, Order::HighFirst, 8}, ones), Bytes{0b10000011});

  Bytes twos{0, 1, 2, 3, 3, 2, 1, 0};
  EXPECT_EQ(packed({2, Order::LowFirst, 8}, twos), (Bytes{0b11100100, 0b00011011}));
  EXPECT_EQ(packed({2, Order::HighFirst, 8}, twos), (Bytes{0b00011011, 0b11100100}));
  EXPECT_EQ(packed({2, Order::Planar, 8}, twos), (Bytes{0b01111000, 0b00101101}));

  // 3 = 2 + 1: two bytes of low bit pairs, then the byte of the top bits.
  Bytes threes{0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(packed({3, Order::LowFirst, 8}, threes), (Bytes{0b11100100, 0b11100100, 0b11110000}));
  EXPECT_EQ(packed({3, Order::HighFirst, 8}, threes), (Bytes{0b00011011, 0b00011011, 0b00001111}));
  // 7 = 4 + 2 + 1.
  Bytes sevens{0x7f, 0, 0, 0, 0, 0, 0, 0x55};
  EXPECT_EQ(packed({7, Order::LowFirst, 8}, sevens), (Bytes{0x0f, 0, 0, 0x50, 0x03, 0x40, 0x81}));
  EXPECT_EQ(packed({8, Order::HighFirst, 8}, ascending), ascending);

  std::vector<int8_t> negative{-1, -8, 7, 0, 1, -2, -7, 3};
  EXPECT_EQ(packRows({4, Order::LowFirst, 8}, negative, 1, 8), (Bytes{0x8f, 0x07, 0xe1, 0x39}));
}

TEST(Packing, RowsAreIndependent) {
  Packing packing{5, Order::Planar, 32};
  constexpr int64_t rows = 17, columns = 96;
  std::vector<int8_t> values;
  for (int i = 0; i < rows * columns; ++i)
    values.push_back(static_cast<int8_t>(i * 7 % 32 - 16));
  Bytes bytes = packRows(packing, values, rows, columns);
  int64_t stride = packing.bytesPerRow(columns);
  EXPECT_EQ(stride, 60);
  for (int64_t row = 0; row < rows; ++row) {
    Bytes alone(static_cast<size_t>(stride));
    pack(packing, std::span<const int8_t>(values).subspan(static_cast<size_t>(row * columns), columns), alone);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), bytes.begin() + row * stride));
  }
  EXPECT_TRUE(packRows(packing, std::span<const int8_t>(), 0, columns).empty());
}

TEST(Packing, NamesWhatDoesNotFit) {
  Packing packing{4, Order::Planar, 128};
  EXPECT_EQ(messageOf([&] { packing.bytesPerRow(199); }), "expected a multiple of 128 columns, got 199");
  EXPECT_EQ(packing.bytesPerRow(int64_t{1} << 33), int64_t{1} << 32);

  Bytes bytes(64);
  std::vector<int8_t> values(128, 0);
  values[17] = 9;
  EXPECT_EQ(messageOf([&] { pack(packing, values, bytes); }),
            "expected a value in [-8, 7] for 4 bits, got 9 at index 17");
  std::vector<uint8_t> codes(128, 15);
  codes[127] = 16;
  EXPECT_EQ(messageOf([&] { pack(packing, codes, bytes); }),
            "expected a value in [0, 15] for 4 bits, got 16 at index 127");
  bytes.resize(63);
  EXPECT_EQ(messageOf([&] { unpack(packing, bytes, values); }),
            "expected 64 bytes for 128 values of bits=4,order=planar,block=128, got 63");
  // 2 x 64 values make a block, but one that straddles rows.
  EXPECT_EQ(messageOf([&] { packRows(packing, codes, 2, 64); }), "expected a multiple of 128 columns, got 64");
  EXPECT_EQ(messageOf([&] { packRows(packing, codes, 3, 128); }), "expected 3 x 128 values, got 128");
  EXPECT_EQ(messageOf([&] { packRows({9, Order::Planar, 8}, codes, 1, 128); }), "expected 1 to 8 bits, got 9");
  EXPECT_EQ(messageOf([&] { (Packing{4, Order::Planar, 24}).planes(); }),
            "expected a power of two in [8, 65536] as block, got 24");
}

TEST(Packing, TextRoundTrips) {
  forEveryPacking([](const Packing &packing) { EXPECT_EQ(Packing::parse(packing.toString()), packing); });
  EXPECT_EQ((Packing{4, Order::Planar, 128}).toString(), "bits=4,order=planar,block=128");
  EXPECT_EQ(Packing::parse("block=16,bits=3,order=high"), (Packing{3, Order::HighFirst, 16}));
  EXPECT_EQ(messageOf([] { Packing::parse("bits=4,order=middle,block=8"); }),
            "expected an order of low, high, planar, fragments, fragments2, fragments4, columns, got 'middle'");
  for (const char *text : {"", "bits=4", "bits=4,order=low", "bits=4x,order=low,block=8",
                           "bits=4,bits=4,order=low,block=8", "bits,order=low,block=8", "width=4,order=low,block=8"})
    EXPECT_EQ(messageOf([&] { Packing::parse(text); }),
              "expected bits=N,order=(low, high, planar, fragments, fragments2, fragments4, columns),block=N and, of "
              "columns, rows=N,lanes=N,"
              "bias=(none, low, all), got '" +
                  std::string(text) + "'");
  EXPECT_EQ(messageOf([] { Packing::parse("bits=0,order=low,block=8"); }), "expected 1 to 8 bits, got 0");
}

TEST(Packing, Drawing) {
  EXPECT_EQ((Packing{3, Order::HighFirst, 8}).drawing(), "bits=3,order=high,block=8: 3 bytes\n"
                                                         "  byte   7   6   5   4   3   2   1   0\n"
                                                         "  values' bits 0 to 1\n"
                                                         "     0 0.1 0.0 1.1 1.0 2.1 2.0 3.1 3.0\n"
                                                         "     1 4.1 4.0 5.1 5.0 6.1 6.0 7.1 7.0\n"
                                                         "  values' bits 2 to 2\n"
                                                         "     2 0.2 1.2 2.2 3.2 4.2 5.2 6.2 7.2\n");
  std::string large = (Packing{4, Order::Planar, 128}).drawing();
  EXPECT_NE(large.find("     3  67.3  67.2  67.1  67.0   3.3   3.2   3.1   3.0\n   ...\n    62 126.3"),
            std::string::npos);
}
