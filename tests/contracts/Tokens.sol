// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

// The least of three token standards that a gate asks, without any check of who may do what: for tests and demos on a local node
// only.

contract Nft {
    event Transfer(address indexed from, address indexed to, uint256 indexed token);

    mapping(uint256 token => address) private owners;
    mapping(address owner => uint256) public balanceOf;

    // ERC-165: itself and ERC-721.
    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7 || id == 0x80ac58cd;
    }

    function ownerOf(uint256 token) external view returns (address owner) {
        owner = owners[token];
        require(owner != address(0), "no such token");
    }

    // Gives the token to `to`, from its owner, if any; to nobody burns it, from nobody makes it.
    function give(uint256 token, address to) external {
        address from = owners[token];
        if (from != address(0)) balanceOf[from]--;
        if (to != address(0)) balanceOf[to]++;
        owners[token] = to;
        emit Transfer(from, to, token);
    }
}

contract Coin {
    event Transfer(address indexed from, address indexed to, uint256 amount);

    mapping(address owner => uint256) public balanceOf;

    function set(address owner, uint256 amount) external {
        emit Transfer(owner, address(0), balanceOf[owner]);
        emit Transfer(address(0), owner, amount);
        balanceOf[owner] = amount;
    }
}

// One of the tokens that are money and a collection at once (ERC-404): a balance counts fractions, so that it is no number of
// tokens.
contract Semi {
    mapping(address owner => uint256) public balanceOf;

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7;
    }

    function set(address owner, uint256 amount) external {
        balanceOf[owner] = amount;
    }
}

contract Multi {
    event TransferSingle(address indexed operator, address indexed from, address indexed to, uint256 token, uint256 amount);

    mapping(address owner => mapping(uint256 token => uint256)) private balances;

    function balanceOf(address owner, uint256 token) external view returns (uint256) {
        return balances[owner][token];
    }

    function set(address owner, uint256 token, uint256 amount) external {
        emit TransferSingle(msg.sender, owner, address(0), token, balances[owner][token]);
        emit TransferSingle(msg.sender, address(0), owner, token, amount);
        balances[owner][token] = amount;
    }
}

// Answers every call by burning all gas.
contract Burner {
    fallback() external {
        while (true) {}
    }
}
