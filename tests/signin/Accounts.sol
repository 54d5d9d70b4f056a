// SPDX-License-Identifier: Apache-2.0
// Contracts for the tests of contract accounts; `node contracts.mjs` compiles them into contracts.json.
pragma solidity ^0.8.30;

/// An account whose owner's key speaks for it (ERC-1271).
contract Account {
    address public owner;

    constructor(address first) {
        owner = first;
    }

    function give(address next) external {
        require(msg.sender == owner);
        owner = next;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return 0xffffffff;
        address signer = ecrecover(hash, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
        return signer != address(0) && signer == owner ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

/// Makes accounts at addresses known before.
contract Maker {
    function make(address owner, bytes32 salt) external returns (address) {
        return address(new Account{salt: salt}(owner));
    }

    function where(address owner, bytes32 salt) external view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(Account).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code)))));
    }
}

/// An account of several owners as Safe has it: so many of them sign its own digest of the message, in the order of their
/// addresses, or agree to it on the chain, and then there is nothing to send.
contract Safe {
    bytes32 constant DOMAIN = keccak256("EIP712Domain(uint256 chainId,address verifyingContract)");
    bytes32 constant MESSAGE = keccak256("SafeMessage(bytes message)");

    address[] public owners;
    uint256 public threshold;
    mapping(bytes32 => mapping(address => bool)) public agreed;

    constructor(address[] memory first, uint256 least) {
        owners = first;
        threshold = least;
    }

    function replace(uint256 place, address next) external {
        require(msg.sender == owners[place]);
        owners[place] = next;
    }

    function agree(bytes32 hash) external {
        agreed[digest(hash)][msg.sender] = true;
    }

    function digest(bytes32 hash) public view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN, block.chainid, address(this)));
        bytes32 message = keccak256(abi.encode(MESSAGE, keccak256(abi.encode(hash))));
        return keccak256(abi.encodePacked(bytes2(0x1901), domain, message));
    }

    function isOwner(address account) internal view returns (bool) {
        for (uint256 i; i < owners.length; i++) if (owners[i] == account) return true;
        return false;
    }

    function isValidSignature(bytes32 hash, bytes calldata signatures) external view returns (bytes4) {
        bytes32 signed = digest(hash);
        uint256 count;
        if (signatures.length == 0) {
            for (uint256 i; i < owners.length; i++) if (agreed[signed][owners[i]]) count++;
        } else {
            address last;
            for (; (count + 1) * 65 <= signatures.length; count++) {
                bytes calldata one = signatures[count * 65:(count + 1) * 65];
                address signer = ecrecover(signed, uint8(one[64]), bytes32(one[:32]), bytes32(one[32:64]));
                if (signer <= last || !isOwner(signer)) return 0xffffffff;
                last = signer;
            }
        }
        return count >= threshold ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

/// Never answers.
contract Burner {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        uint256 n;
        while (true) n++;
        return 0x1626ba7e;
    }
}

/// Answers too much, and yes at its beginning.
contract Shouter {
    fallback() external {
        assembly {
            mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
            return(0, 100000)
        }
    }
}
