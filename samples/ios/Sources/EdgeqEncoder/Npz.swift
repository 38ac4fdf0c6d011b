import Foundation

/// Float32 arrays of a stored (uncompressed) `.npz`, which is what golden cases are.
public enum Npz {
    public enum Failure: Error { case malformed(String) }
    public struct FloatArray { public let shape: [Int]; public let values: [Float] }

    public static func floats(named name: String, in file: URL) throws -> FloatArray {
        let data = [UInt8](try Data(contentsOf: file))
        guard let end = stride(from: data.count - 22, through: 0, by: -1).first(where: {
            $0 >= 0 && number(data, $0, 4) == 0x0605_4b50
        }) else { throw Failure.malformed("no zip directory") }
        var entry = number(data, end + 16, 4)
        for _ in 0..<number(data, end + 10, 2) {
            let nameLength = number(data, entry + 28, 2)
            let found = String(decoding: data[(entry + 46)..<(entry + 46 + nameLength)], as: UTF8.self)
            if found == name + ".npy" {
                let size = number(data, entry + 20, 4), local = number(data, entry + 42, 4)
                let start = local + 30 + number(data, local + 26, 2) + number(data, local + 28, 2)
                return try array(Array(data[start..<(start + size)]))
            }
            entry += 46 + nameLength + number(data, entry + 30, 2) + number(data, entry + 32, 2)
        }
        throw Failure.malformed("no array \(name)")
    }

    private static func array(_ npy: [UInt8]) throws -> FloatArray {
        let headerLength = number(npy, 8, 2)
        let header = String(decoding: npy[10..<(10 + headerLength)], as: UTF8.self)
        guard header.contains("'<f4'"), header.contains("'fortran_order': False"),
              let open = header.lastIndex(of: "("), let close = header.lastIndex(of: ")")
        else { throw Failure.malformed(header) }
        let shape = header[header.index(after: open)..<close].split(separator: ",")
            .compactMap { Int($0.trimmingCharacters(in: .whitespaces)) }
        let body = npy[(10 + headerLength)...]
        let values = stride(from: body.startIndex, to: body.endIndex, by: 4).map {
            Float(bitPattern: UInt32(number(npy, $0, 4)))
        }
        guard values.count == shape.reduce(1, *) else { throw Failure.malformed("\(values.count) values for \(shape)") }
        return FloatArray(shape: shape, values: values)
    }

    private static func number(_ data: [UInt8], _ offset: Int, _ count: Int) -> Int {
        (0..<count).reduce(0) { $0 | Int(data[offset + $1]) << (8 * $1) }
    }
}
